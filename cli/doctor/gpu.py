"""The brain's cards: what there is, whether the driver fits the images, and what is free."""

from collections.abc import Iterator

from cli.doctor.finding import Finding, failure, ok, warning
from cli.host.gpus import Gpu, Gpus
from cli.host.images import NEEDS, OLDER
from contracts.deployment import Deployment

VISIBLE = "NVIDIA_VISIBLE_DEVICES"


def card_images(here: Deployment, selected: frozenset[str]) -> list[str]:
    """The images, of services/images.yaml, that are to run on a card here."""
    named = {
        "vllm": "vllm-cuda",
        "llamacpp": here.llamacpp_variant,
        "embeddings": here.tei_variant,
        "rerank": here.tei_variant,
    }
    wanted = {image for profile, image in named.items() if profile in selected}
    return [image for image in NEEDS if image in wanted]


def check_cards(known: Gpus, wanted: list[str]) -> Iterator[Finding]:
    """Each card, and the driver against the images. Nothing where no image needs a card."""
    if not wanted:
        return
    if not known.cards:
        yield failure(
            "gpu",
            f"{known.problem.rstrip('.')}; a card is needed for {', '.join(wanted)}.",
            "The driver hangs: look at dmesg."
            if "did not end" in known.problem
            else "Install NVIDIA's driver, or choose another preset: variet init --preset cpu",
        )
        return
    for card in known.cards:
        detail = f"{card.name}, {_gib(card.free_mib)} of {_gib(card.total_mib)} free"
        yield ok(f"gpu {card.index}", f"{detail}, driver {card.driver}")
    yield from (check_driver(known, one) for one in wanted)


def check_driver(known: Gpus, image: str) -> Finding:
    need = NEEDS[image]
    name, major = f"driver for {image}", known.driver_major or 0
    if major < need.least:
        other = f", or set LLAMACPP_VARIANT={OLDER[image]}" if image in OLDER else ""
        return failure(
            name,
            f"Driver {known.driver} is too old for CUDA {need.cuda}, which needs {need.least}.",
            f"Update the driver to {need.native} or newer{other}.",
        )
    if major < need.native:
        return warning(
            name,
            f"Driver {known.driver} runs CUDA {need.cuda} only by minor-version compatibility.",
            f"If the container does not start: update the driver to {need.native} or newer.",
        )
    return ok(name, f"{known.driver} runs CUDA {need.cuda}")


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


def _gib(mib: int) -> str:
    return f"{mib / 1024:.1f} GiB"
