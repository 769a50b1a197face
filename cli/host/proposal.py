"""Which preset suits a machine, and which of its cards plays which of the preset's."""

from itertools import permutations

from cli.host.facts import Host
from cli.host.images import tei_for
from contracts.preset import HostPreset
from models.manifest import load_preset, preset_names

# Drivers keep a little of a card to themselves, and tell the rest as its size.
ENOUGH = 0.97
CPU, MAC = "cpu", "mac"


def propose(host: Host) -> str:
    """The preset that makes the most of this machine: with the most memory of cards that the
    machine has; among equals the one that names its cards."""
    if host.is_mac:
        return MAC
    presets = {name: load_preset(name) for name in preset_names()}
    suiting = {
        name: preset
        for name, preset in presets.items()
        if preset.cards and not preset.native and cards_for(preset, host) is not None
    }
    return max(suiting, key=lambda name: _worth(suiting[name], host), default=CPU)


def cards_for(preset: HostPreset, host: Host) -> tuple[int, ...] | None:
    """For each card of the preset the index of one of the machine; None: they are not there. The
    machine's order is kept where it will do."""
    for chosen in permutations(host.gpus.cards, len(preset.cards)):
        pairs = zip(chosen, preset.cards, strict=True)
        if all(gpu.total_mib >= card.mib * ENOUGH for gpu, card in pairs):
            return tuple(gpu.index for gpu in chosen)
    return None


def tei_variant(preset: HostPreset, host: Host) -> str | None:
    """The image for the embeddings card that is really there."""
    variant, chosen = preset.images.tei, cards_for(preset, host)
    if variant is None or preset.emb_card is None or not chosen:
        return variant
    at = chosen[preset.emb_card]
    compute = next(gpu.compute for gpu in host.gpus.cards if gpu.index == at)
    return tei_for(variant, compute)


def _worth(preset: HostPreset, host: Host) -> tuple[int, int]:
    named = sum(any(card.name in gpu.name for gpu in host.gpus.cards) for card in preset.cards)
    return sum(card.mib for card in preset.cards), named
