"""A gate without a scheduler: tests decide who waits, who is refused, and what clients are told."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from contracts.errors import SettingsError
from contracts.manifest import Manifest, ModelSource
from contracts.preset import HostPreset
from contracts.tiers import (
    DeviceStatus,
    EngineStatus,
    Priority,
    Reloaded,
    SwapProgress,
    TiersStatus,
)
from services.gateway.catalogue import Catalogue, EngineSpec, catalogue
from services.gateway.gate import OnProgress, Refused, Upstream
from tests.services.gateway.entries import entry

KEY = "engine-key-of-these-tests"


MANIFEST = Manifest(
    models=(
        entry("small", long_context="large"),
        entry("large", context=8_192, reasoning_field="reasoning_content"),
        entry(
            "thinker",
            engine="vllm",
            reasoning_field="reasoning",
            source=ModelSource(url="hf:some/thinker@0123456789"),
        ),
        entry("words", kind="embed", engine="tei", dimension=8),
        entry("order", kind="rerank"),
        entry("order-tei", kind="rerank", engine="tei"),
        entry("kinds", kind="classify"),
        entry("ears", kind="transcribe"),
        entry("mouth", kind="speech"),
    )
)


def known(rerank: str = "order") -> Catalogue:
    preset = HostPreset.model_validate(
        {
            "about": "A machine of these tests.",
            "profiles": ["rerank"],
            "tiers": {"fast": "small", "balanced": "large", "deep": "thinker"},
            "embed": "words",
            "classify": "kinds",
            "rerank": rerank,
            "aliases": {"default": "small", "clever": "large"},
        }
    )
    found = catalogue(preset, MANIFEST, "fast")
    spec = next(iter(found.engines.values()))
    more = {}
    for name in ("ears", "mouth"):
        model = MANIFEST.get(name)
        assert model is not None
        more[name] = EngineSpec(
            name, model, (), (), model.context, spec.kv_cache, spec.flags, spec.cards
        )
    return Catalogue({**found.engines, **more}, found.default)


class HeldLease:
    def __init__(self, gate: "MemoryGate", upstream: Upstream) -> None:
        self._gate, self._upstream, self._held = gate, upstream, True
        gate.in_flight[upstream.spec.name] += 1

    @property
    def upstream(self) -> Upstream:
        return self._upstream

    def release(self) -> None:
        if self._held:
            self._held = False
            self._gate.in_flight[self._upstream.spec.name] -= 1


@dataclass
class MemoryGate:
    """`url` answers for every engine. A request waits while `closed` is set; `refusal` is what one
    that enters gets."""

    url: str = "http://127.0.0.1:1"
    names: Catalogue = field(default_factory=known)
    refusal: Refused | None = None
    closed: bool = False
    is_ready: bool = True
    in_flight: Counter[str] = field(default_factory=Counter)
    waiting: int = 0
    entered: list[tuple[str, Priority, str]] = field(default_factory=list)
    told: list[OnProgress] = field(default_factory=list)
    speeds: dict[str, float] = field(default_factory=dict)
    switched: list[tuple[str, str, bool]] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    contexts: dict[str, int] = field(default_factory=dict)
    reload_error: SettingsError | None = None
    log_lines: tuple[bytes, ...] = (b"one\n", b"two\n")
    logs_closed: bool = False
    on_enter: Callable[[], None] = lambda: None
    _opened: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def catalogue(self) -> Catalogue:
        return self.names

    @property
    def total(self) -> int:
        return sum(self.in_flight.values())

    def open(self) -> None:
        self.closed = False
        self._opened.set()

    def running_context(self, spec: EngineSpec) -> int:
        return self.contexts.get(spec.name, spec.context)

    async def enter(
        self,
        spec: EngineSpec,
        *,
        priority: Priority = "chat",
        request_id: str = "",
        on_progress: OnProgress | None = None,
    ) -> HeldLease:
        self.entered.append((spec.name, priority, request_id))
        if on_progress is not None:
            self.told.append(on_progress)
        self.on_enter()
        if self.refusal is not None and not self.closed:
            raise self.refusal
        self.waiting += 1
        try:
            while self.closed:
                self._opened.clear()
                await self._opened.wait()
        finally:
            self.waiting -= 1
        if self.refusal is not None:
            raise self.refusal
        return HeldLease(self, Upstream(spec, self.url, KEY, self.running_context(spec)))

    def status(self) -> TiersStatus:
        engines = tuple(
            EngineStatus(
                name=spec.name,
                model=spec.entry.id,
                kind=spec.entry.kind,
                engine=spec.entry.engine,
                tiers=spec.tiers,
                aliases=spec.aliases,
                state="ready",
                context=self.running_context(spec),
                needs_mib={"ram": 100},
                tokens_per_s=self.speeds.get(spec.name),
            )
            for spec in self.names.engines.values()
        )
        ram = DeviceStatus(device="ram", name="main memory", total=8, budget=6, reserved=0)
        return TiersStatus(engines=engines, devices=(ram,), default=self.names.default)

    async def load(self, spec: EngineSpec, on_progress: OnProgress | None = None) -> None:
        self.loads.append(spec.name)
        if on_progress is not None:
            on_progress(SwapProgress(engine=spec.name, stage="loading", phase="stop"))
            on_progress(SwapProgress(engine=spec.name, stage="loading", phase="start"))
        if self.refusal is not None:
            raise self.refusal

    async def unload(self, spec: EngineSpec) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.switched.append(("unload", spec.name, True))

    def pin(self, spec: EngineSpec, on: bool) -> None:
        self.switched.append(("pin", spec.name, on))

    def lock(self, spec: EngineSpec, on: bool) -> None:
        self.switched.append(("lock", spec.name, on))

    async def reload(self) -> Reloaded:
        if self.reload_error is not None:
            raise self.reload_error
        return Reloaded(changed=("small",))

    async def logs(self, spec: EngineSpec, follow: bool) -> AsyncIterator[bytes]:
        try:
            for line in self.log_lines:
                yield line
            while follow:
                await asyncio.Event().wait()
        finally:
            self.logs_closed = True

    def note_speed(self, spec: EngineSpec, tokens_per_s: float) -> None:
        self.speeds[spec.name] = tokens_per_s

    def ready(self) -> bool:
        return self.is_ready
