"""The brain's cards: what there is, whether the driver fits the images, and what is free.

Driver floors on GeForce cards, where compatibility packages do not help: CUDA 13 needs 580, CUDA
12.8 natively 570 and 12.9 natively 575; any 12.x may run on 525 by minor-version compatibility
(NVIDIA's CUDA compatibility guide).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from cli.doctor.finding import Finding, failure, ok, warning
from cli.host.gpus import Gpu, Gpus
from contracts.deployment import Deployment

CUDA_12_LEAST = 525
VISIBLE = "NVIDIA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Floor:
    """What an image asks of the driver: `least` major version, `native` without compatibility."""

    image: str
    cuda: str
    least: int
    native: int


VLLM = Floor("vllm-cuda", "CUDA 13.0", 580, 580)
LLAMACPP = {
    "llamacpp-cuda13": Floor("llamacpp-cuda13", "CUDA 13.4", 580, 580),
    "llamacpp-cuda": Floor("llamacpp-cuda", "CUDA 12.8", CUDA_12_LEAST, 570),
}
CPU = "-cpu"


def floors(here: Deployment, selected: frozenset[str]) -> list[Floor]:
    """Of the images that are to run on a card here."""
    found: list[Floor] = []
    if "vllm" in selected:
        found.append(VLLM)
    if "llamacpp" in selected and (here.llamacpp_variant or "") in LLAMACPP:
        found.append(LLAMACPP[here.llamacpp_variant or ""])
    tei = here.tei_variant or ""
    if selected & {"embeddings", "rerank"} and tei and not tei.endswith(CPU):
        found.append(Floor(tei, "CUDA 12.9", CUDA_12_LEAST, 575))
    return found


def check_cards(known: Gpus, wanted: list[Floor]) -> Iterator[Finding]:
    """Each card, and the driver against the images. Nothing where no image needs a card."""
    if not wanted:
        return
    if not known.cards:
        names = ", ".join(one.image for one in wanted)
        yield failure(
            "gpu",
            f"{known.problem.rstrip('.')}; a card is needed for {names}.",
            "The driver hangs: look at dmesg."
            if "did not end" in known.problem
            else "Install NVIDIA's driver, or choose another preset: variet init --preset cpu",
        )
        return
    for card in known.cards:
        detail = f"{card.name}, {_gib(card.free_mib)} of {_gib(card.total_mib)} free"
        yield ok(f"gpu {card.index}", f"{detail}, driver {card.driver}")
    yield from (check_driver(known, one) for one in wanted)


def check_driver(known: Gpus, floor: Floor) -> Finding:
    name, major = f"driver for {floor.image}", known.driver_major or 0
    if major < floor.least:
        return failure(
            name,
            f"Driver {known.driver} is too old for {floor.cuda}, which needs {floor.least}.",
            f"Update the driver to {floor.native} or newer{_other(floor)}.",
        )
    if major < floor.native:
        return warning(
            name,
            f"Driver {known.driver} runs {floor.cuda} only by minor-version compatibility.",
            f"If the container does not start: update the driver to {floor.native} or newer.",
        )
    return ok(name, f"{known.driver} runs {floor.cuda}")


def check_memory(known: Gpus, given: str, needs: list[int], model: str, running: bool) -> Finding:
    """Whether the model fits on the cards that `given` (NVIDIA_VISIBLE_DEVICES_LLM) names; `needs`
    MiB on each. While our engine runs it holds them already, so that only the cards' size counts.
    """
    cards, unknown = visible(known, given)
    if unknown or len(cards) < len(needs):
        what = f"names {', '.join(unknown)}, which is no card here" if unknown else "names too few"
        there = ", ".join(str(card.index) for card in known.cards)
        return failure(
            "gpu memory",
            f"{VISIBLE}_LLM={given} {what}; {model} needs {len(needs)}.",
            f"Name cards by index or UUID; there are {there}.",
        )
    has = [one.total_mib if running else one.free_mib for one in cards]
    short = [
        f"card {card.index} has {_gib(mib)}{'' if running else ' free'} and needs {_gib(need)}"
        for card, mib, need in zip(cards, has, needs, strict=False)
        if mib < need
    ]
    if short:
        return failure(
            "gpu memory",
            f"{model}: {', '.join(short)}.",
            "Stop what else uses the cards (nvidia-smi), or serve a smaller tier:"
            " variet init --tier fast",
        )
    state = "is loaded" if running else "fits into what is free"
    return ok("gpu memory", f"{model} needs {_gib(sum(needs))} and {state}")


def visible(known: Gpus, given: str) -> tuple[list[Gpu], list[str]]:
    """The cards that a setting such as `0,GPU-1a2b` names, and those of its words that none is."""
    words = [word.strip() for word in given.split(",") if word.strip()]
    if words == ["all"]:
        return list(known.cards), []
    by_word = {word: _named(known, word) for word in words}
    return [card for card in by_word.values() if card], [
        w for w, card in by_word.items() if not card
    ]


def _named(known: Gpus, word: str) -> Gpu | None:
    """NVIDIA's tools take an index, a UUID, or the beginning of one."""
    for card in known.cards:
        if word == str(card.index) or (len(word) > 4 and card.uuid.startswith(word)):
            return card
    return None


def _other(floor: Floor) -> str:
    if floor.image == "llamacpp-cuda13":
        return ", or set LLAMACPP_VARIANT=llamacpp-cuda"
    return ""


def _gib(mib: int) -> str:
    return f"{mib / 1024:.1f} GiB"
