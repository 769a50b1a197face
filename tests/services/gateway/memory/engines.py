"""Engines, presets and devices as the tests of the gateway's memory want them."""

from collections.abc import Callable
from dataclasses import dataclass, field

from contracts.manifest import KvShape, ManifestEntry, ModelEngine, ModelKind, ModelSource
from contracts.preset import Card, HostPreset, KvCache
from services.gateway.catalogue import EngineSpec
from services.gateway.memory.readings import CardReading, RamReading

UUIDS = ("GPU-11111111-2222-3333-4444-555555555555", "GPU-99999999-8888-7777-6666-555555555555")


def two_cards(**changes: object) -> HostPreset:
    """Two cards of 12 GiB; embeddings on the second."""
    told: dict[str, object] = {
        "about": "two cards",
        "cards": [{"name": "RTX 3060", "mib": 12_288, "compute": "8.6"}] * 2,
        "llm_cards": [0, 1],
        "emb_card": 1,
        "ram_mib": 16_000,
        "tiers": dict.fromkeys(("fast", "balanced", "deep"), "m"),
        "embed": "e",
    }
    return HostPreset.model_validate(told | changes)


def no_cards() -> HostPreset:
    return two_cards(cards=[], llm_cards=[], emb_card=None)


def entry(
    engine: ModelEngine = "llama.cpp",
    kind: ModelKind = "chat",
    kv: KvShape | None = None,
    weights: int | None = 10_000,
    vram_mib: int = 14_000,
    ram_mib: int = 2_000,
    url: str = "https://example.org/m.gguf",
    context: int = 8_192,
) -> ManifestEntry:
    return ManifestEntry(
        id="m",
        about="a model",
        kind=kind,
        engine=engine,
        source=ModelSource(url=url),
        licence="MIT",
        context=context,
        vram_mib=vram_mib,
        ram_mib=ram_mib,
        weights_mib=weights,
        kv=kv,
    )


def spec(
    model: ManifestEntry | None = None,
    *flags: str,
    cards: tuple[int, ...] = (0, 1),
    context: int = 8_192,
    kv_cache: KvCache = "f16",
    ram_weights_mib: int = 0,
    sleep: int = 0,
) -> EngineSpec:
    return EngineSpec(
        name="m",
        entry=model or entry(),
        tiers=(),
        aliases=(),
        context=context,
        kv_cache=kv_cache,
        flags=flags,
        cards=cards,
        ram_weights_mib=ram_weights_mib,
        sleep=sleep,
    )


def reading(index: int, used: int = 0, total: int = 12_288) -> CardReading:
    return CardReading(index, UUIDS[index], f"card {index}", total, used, total - used)


@dataclass
class ToldReadings:
    """What it is set to; `before` is called before each answer."""

    told_cards: tuple[CardReading, ...] | None = None
    told_ram: RamReading | None = None
    before: Callable[[], None] = field(default=lambda: None)

    def cards(self) -> tuple[CardReading, ...] | None:
        self.before()
        return self.told_cards

    def ram(self) -> RamReading | None:
        return self.told_ram


__all__ = ["Card", "KvShape", "ToldReadings", "entry", "no_cards", "reading", "spec", "two_cards"]
