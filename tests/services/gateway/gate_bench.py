"""A gate with the real scheduler, whose engines a test steers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.gateway.catalogue import Catalogue, EngineSpec
from services.gateway.configuration import Configuration
from services.gateway.engines.engine import Running
from services.gateway.metrics import Metrics
from services.gateway.scheduling.scheduler import Scheduler
from services.gateway.scheduling.types import Limits, Target
from services.gateway.shell import Gate
from tests.services.gateway.scripted_owner import PATIENCE_S, ScriptedEngine, ScriptedRoom, spec_of

ROOM_MIB = 150


def configuration(*specs: EngineSpec, limits: Limits | None = None) -> Configuration:
    targets = tuple(
        Target(
            spec.name,
            {"ram": 100},
            concurrency=spec.concurrency,
            pinned=spec.pinned,
            preload=spec.preload,
            ttl_s=spec.ttl_s,
            fingerprint=spec.fingerprint,
        )
        for spec in specs
    )
    known = Catalogue({spec.name: spec for spec in specs}, specs[0].name)
    return Configuration(known, targets, {"ram": ROOM_MIB}, limits or Limits())


class Bench:
    """`engines` by name; `new` is what a reload reads; `budget` what the devices tell."""

    def __init__(self, told: Configuration) -> None:
        self.engines: dict[str, ScriptedEngine] = {}
        self.found: dict[str, Running] = {}
        self.metrics = Metrics()
        self.budget = {"ram": ROOM_MIB}
        self.new: Configuration | Exception = told
        self.gate = Gate(
            told,
            engine_of=self._engine,
            room=ScriptedRoom(),
            devices=lambda reserved: (),
            scheduler_of=lambda c, e: Scheduler(e, c.targets, c.budget, c.limits),
            reread=self._reread,
            budget_of=lambda held: dict(self.budget),
            metrics=self.metrics,
        )

    def _engine(self, spec: EngineSpec) -> ScriptedEngine:
        self.engines[spec.name] = ScriptedEngine(spec)
        return self.engines[spec.name]

    def _reread(self) -> Configuration:
        if isinstance(self.new, Exception):
            raise self.new
        return self.new

    def spec(self, name: str) -> EngineSpec:
        return self.gate.catalogue.engines[name]

    async def until(self, name: str, state: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if self.state(name) == state:
                    return
                await asyncio.sleep(0)

    async def until_called(self, name: str) -> None:
        """The engine's start is begun; before it, the load is planned in a thread."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if self.engines[name].calls:
                    return
                await asyncio.sleep(0)

    def state(self, name: str) -> str:
        return {e.name: e.state for e in self.gate.status().engines}[name]

    def in_flight(self, name: str) -> int:
        return {e.name: e.in_flight for e in self.gate.status().engines}[name]


@asynccontextmanager
async def bench(
    *specs: EngineSpec, limits: Limits | None = None, found: str = ""
) -> AsyncIterator[Bench]:
    told = configuration(*(specs or (spec_of("one"), spec_of("two"))), limits=limits)
    made = Bench(told)
    if found:
        made.engines[found].found = Running("http://127.0.0.1:1", "key", 700, "1", {"ram": 80})
    await made.gate.open()
    try:
        yield made
    finally:
        for engine in made.engines.values():
            engine.go.set()
        await made.gate.close(stop=True)
