"""Which engines this brain has: what the preset's tiers and roles make of the manifest.

A tier, an alias or a model id leads to an engine. Tiers that serve the same model with the same
settings share one; where they differ, each engine is called ID@TIER.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256

from contracts.errors import NotFound
from contracts.manifest import Manifest, ManifestEntry, ModelKind, Tier
from contracts.preset import TIERS, HostPreset, KvCache, Served
from models.flags import engine_flags

DEFAULT = "default"
# Requests that an engine serves at once, where its flags do not say.
CONCURRENCY = {"llama.cpp": 1, "vllm": 64, "tei": 64}
CONCURRENCY_FLAGS = ("--parallel", "-np", "--max-num-seqs", "--max-concurrent-requests")


@dataclass(frozen=True)
class EngineSpec:
    """One engine. `cards` are positions in the preset's list; without any it runs on the processor.
    `flags` are further words of its command line. `others` are the models that it shares cards
    with. `sleep` 0: it is stopped when it has to go; 1 or 2: vLLM's levels."""

    name: str
    entry: ManifestEntry
    tiers: tuple[Tier, ...]
    aliases: tuple[str, ...]
    context: int
    kv_cache: KvCache
    flags: tuple[str, ...]
    cards: tuple[int, ...]
    ram_weights_mib: int = 0
    sleep: int = 0
    pinned: bool = False
    preload: bool = False
    ttl_s: float | None = None
    min_warm_s: float | None = None

    @cached_property
    def concurrency(self) -> int:
        """Requests that it serves at once."""
        for flag, value in zip(self.flags, self.flags[1:], strict=False):
            if flag in CONCURRENCY_FLAGS and value.isdigit():
                return max(1, int(value))
        return CONCURRENCY.get(self.entry.engine, 1)

    @cached_property
    def fingerprint(self) -> str:
        """Changes with whatever an engine is started with, and with nothing else."""
        told = {
            "model": self.entry.model_dump(mode="json", include={"id", "engine", "kind", "source"}),
            "context": self.context,
            "kv_cache": self.kv_cache,
            "flags": self.flags,
            "cards": self.cards,
            "sleep": self.sleep,
            # Only vLLM is told them all; the others take whatever name a request carries.
            "names": self.names if self.entry.engine == "vllm" else (self.name,),
        }
        return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def names(self) -> tuple[str, ...]:
        """All that a request may call it by; the first is what it signs with."""
        repository = (self.entry.source.repository,) if self.entry.source.repository else ()
        told = (self.name, *self.tiers, *self.aliases, *repository)
        return tuple(dict.fromkeys(told))

    @property
    def checked_names(self) -> tuple[str, ...] | None:
        """The names that the engine itself knows, and refuses others; None: it takes any."""
        if self.entry.engine != "vllm":
            return None
        return tuple(dict.fromkeys((*self.names, self.entry.id, DEFAULT)))


@dataclass(frozen=True)
class Catalogue:
    """All engines by name, and which of them a request's `model` means."""

    engines: Mapping[str, EngineSpec]
    default: str

    @cached_property
    def by_name(self) -> Mapping[str, EngineSpec]:
        """The engine of each name that a request may use."""
        names: dict[str, EngineSpec] = {}
        for spec in self.engines.values():
            for name in (*spec.names, spec.entry.id):
                names.setdefault(name, spec)
        names.setdefault(DEFAULT, self.engines[self.default])
        return names

    def resolve(self, model: str | None, kinds: Iterable[ModelKind] = ("chat",)) -> EngineSpec:
        """The engine that a request means; without a name, the first of the route's kinds. Raises
        NotFound that lists the names there are."""
        wanted = tuple(kinds)
        name = model or DEFAULT
        found = self._first(wanted) if name == DEFAULT else self.by_name.get(name)
        if found is None or found.entry.kind not in wanted:
            known = sorted(n for n, s in self.by_name.items() if s.entry.kind in wanted)
            said = f"model={model!r}" if model else "This request names no model, and there"
            raise NotFound(
                "model_not_found",
                f"{said} is none that this route serves.",
                f"Ask for one of: {', '.join(known) or 'none is configured'}.",
            )
        return found

    def _first(self, kinds: tuple[ModelKind, ...]) -> EngineSpec | None:
        first = self.engines[self.default]
        if first.entry.kind in kinds:
            return first
        return next((s for s in self.engines.values() if s.entry.kind in kinds), None)

    def longer(self, spec: EngineSpec) -> EngineSpec | None:
        """The engine that takes prompts beyond this one's window; None: they are refused."""
        wanted = spec.entry.long_context
        found = self.by_name.get(wanted) if wanted else None
        return found if found is not None and found.context > spec.context else None


def catalogue(preset: HostPreset, manifest: Manifest, default: Tier) -> Catalogue:
    """The engines of a preset. What embeds or reranks stays loaded."""
    specs: list[EngineSpec] = []
    for tier in TIERS:
        _add_tier(specs, preset, manifest, tier)
    rerank = preset.rerank if "rerank" in preset.profiles else None
    for model in (preset.embed, rerank, preset.classify):
        entry = manifest.get(model) if model else None
        if entry is not None and entry.engine != "in-process":
            specs.append(_beside(preset, entry))
    named = _named(specs)
    for alias, model in preset.aliases.items():
        if alias != DEFAULT:  # which is the default tier, whatever the preset's own is
            _alias(named, alias, model)
    engines = {spec.name: spec for spec in named}
    first = next(spec.name for spec in named if default in spec.tiers)
    return Catalogue(engines, first)


def _add_tier(specs: list[EngineSpec], preset: HostPreset, manifest: Manifest, tier: Tier) -> None:
    served = preset.tiers[tier]
    entry = manifest.get(served.model)
    assert entry is not None, "load_preset has checked it"
    made = _chat(preset, served, entry, tier)
    for place, known in enumerate(specs):
        if replace(known, tiers=()) == replace(made, tiers=()):
            specs[place] = replace(known, tiers=(*known.tiers, tier))
            return
    specs.append(made)


def _chat(preset: HostPreset, served: Served, entry: ManifestEntry, tier: Tier) -> EngineSpec:
    return EngineSpec(
        name=entry.id,
        entry=entry,
        tiers=(tier,),
        aliases=(),
        context=served.context or entry.context,
        kv_cache=served.kv_cache,
        flags=engine_flags(preset, served, entry),
        cards=served.cards if served.cards is not None else preset.llm_cards,
        ram_weights_mib=served.ram_weights_mib,
        sleep=served.sleep,
        pinned=served.pinned,
        preload=served.preload,
        ttl_s=served.ttl_s,
        min_warm_s=served.min_warm_s,
    )


def _beside(preset: HostPreset, entry: ManifestEntry) -> EngineSpec:
    card = () if preset.emb_card is None or not entry.vram_mib else (preset.emb_card,)
    flags: tuple[str, ...] = ()
    if entry.engine == "llama.cpp":
        # By default llama-server keeps prompts in 8 GiB of main memory; here no prompt comes again.
        flags = (*(("--n-gpu-layers", "all") if card else ()), "--cache-ram", "0")
    return EngineSpec(
        name=entry.id,
        entry=entry,
        tiers=(),
        aliases=(),
        context=entry.context,
        kv_cache="f16",
        flags=flags,
        cards=card,
        pinned=entry.kind != "classify",
        preload=entry.kind != "classify",
    )


def _named(specs: list[EngineSpec]) -> list[EngineSpec]:
    """Names that differ: ID@TIER where several tiers serve a model each in its own way."""
    ids = [spec.entry.id for spec in specs]
    return [
        replace(spec, name=f"{spec.entry.id}@{spec.tiers[0]}")
        if ids.count(spec.entry.id) > 1 and spec.tiers
        else spec
        for spec in specs
    ]


def _alias(specs: list[EngineSpec], alias: str, model: str) -> None:
    for place, spec in enumerate(specs):
        if spec.entry.id == model:
            specs[place] = replace(spec, aliases=(*spec.aliases, alias))
            return
