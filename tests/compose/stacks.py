"""The settings that `variet init` writes, for every preset and every choice of profiles.

No two secrets are the same."""

from collections.abc import Callable, Iterator
from itertools import chain, combinations, count

from cli.host.answers import PROFILES, Answers
from cli.host.plan import plan, values
from contracts.manifest import Tier
from contracts.preset import TIERS
from contracts.settings import REPOSITORY
from models import images
from models.manifest import load_preset, preset_names

BRAIN = REPOSITORY / "docker-compose.gpu.yml"
HANDS = REPOSITORY / "docker-compose.workstation.yml"
LAN_IP, LOOPBACK = "192.0.2.10", "127.0.0.1"
BESIDE = ("embeddings", "rerank")


def listed_images() -> dict[str, str]:
    return {name: entry.name for name, entry in images.listed_images().items()}


def presets() -> list[str]:
    """Those whose engines run in containers."""
    return [name for name in preset_names() if not load_preset(name).native]


def choices(of: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield from chain.from_iterable(combinations(of, size) for size in range(len(of) + 1))


def brain(preset: str, tier: Tier = "balanced", beside: tuple[str, ...] = BESIDE) -> dict[str, str]:
    answers = Answers("brain", preset, tier, lan_ip=LAN_IP, hands_ip="192.0.2.20", profiles=beside)
    return values(plan(answers, maker=_canaries()))


def hands(profiles: tuple[str, ...] = PROFILES["hands"], preset: str = "cpu") -> dict[str, str]:
    answers = Answers(
        "hands", preset, brain_ip=LAN_IP, brain_key="canary-of-the-brain", profiles=profiles
    )
    return values(plan(answers, maker=_canaries()))


def brains() -> Iterator[tuple[str, Tier, tuple[str, ...]]]:
    """Every preset with every choice of profiles, and each of its tiers."""
    for name in presets():
        yield from ((name, "balanced", beside) for beside in choices(BESIDE))
        yield from ((name, tier, BESIDE) for tier in TIERS if tier != "balanced")


def _canaries() -> Callable[[], str]:
    numbers = count(1)
    return lambda: f"canary{next(numbers):02}" + "0" * 56
