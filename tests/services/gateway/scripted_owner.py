"""An engine object, a memory and a listener that a test steers step by step, for owners."""

import asyncio
from collections.abc import AsyncIterator, Callable

from contracts.manifest import ManifestEntry, ModelSource
from services.gateway.catalogue import EngineSpec
from services.gateway.engines.engine import LoadError, OnPhase, Running
from services.gateway.owners import Plan
from services.gateway.scheduling.types import Demand, Failure, Rest

PATIENCE_S = 30.0


def spec_of(name: str = "small", **changes: object) -> EngineSpec:
    entry = ManifestEntry(
        id=name,
        about="A model.",
        kind="chat",
        engine="llama.cpp",
        source=ModelSource(url="file:models/nano/nano.gguf"),
        licence="MIT",
        context=1024,
        vram_mib=0,
        ram_mib=100,
    )
    given: dict[str, object] = {
        "name": name,
        "entry": entry,
        "tiers": (),
        "aliases": (),
        "context": 1024,
        "kv_cache": "f16",
        "flags": (),
        "cards": (),
    }
    return EngineSpec(**{**given, **changes})  # type: ignore[arg-type]


class ScriptedEngine:
    """`go` lets starts end; `calls` is what was asked of it. `errors` are of the next starts,
    `error` of all others."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self.calls: list[str] = []
        self.go = asyncio.Event()
        self.go.set()
        self.error: BaseException | None = None
        self.errors: list[BaseException] = []
        self.sleep_error: LoadError | None = None
        self.found: Running | None = None
        self.end: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def _running(self, context: int) -> Running:
        self.end = asyncio.get_running_loop().create_future()
        return Running("http://127.0.0.1:1", "key", context, "1", {"ram": 90})

    def lacks(self) -> LoadError | None:
        return None

    async def find(self) -> Running | None:
        return self.found

    async def start(self, context: int, on_phase: OnPhase) -> Running:
        self.calls.append(f"start {context}")
        return await self._come(context, on_phase)

    async def _come(self, context: int, on_phase: OnPhase) -> Running:
        on_phase(0.5, "half")
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.calls.append("cancelled")
            raise
        if self.errors:
            raise self.errors.pop(0)
        if self.error is not None:
            raise self.error
        return self._running(context)

    async def stop(self) -> None:
        self.calls.append("stop")

    async def sleep(self) -> None:
        self.calls.append("sleep")
        if self.sleep_error is not None:
            raise self.sleep_error

    async def wake(self, on_phase: OnPhase) -> Running:
        self.calls.append("wake")
        return await self._come(self.spec.context, on_phase)

    async def ended(self) -> str:
        return await asyncio.shield(self.end)

    async def logs(self, follow: bool) -> AsyncIterator[bytes]:
        yield b"a line\n"


class ScriptedRoom:
    def __init__(self) -> None:
        self.lacking: LoadError | None = None

    def plan(self, spec: EngineSpec, attempt: int) -> Plan:
        return Plan(spec.context // attempt, {"ram": 100 // attempt})

    async def wait(self, spec: EngineSpec, plan: Plan, asleep: bool) -> None:
        if self.lacking is not None:
            raise self.lacking

    def note(self, spec: EngineSpec, running: Running, plan: Plan | None) -> Demand:
        return running.seen_mib


class Told:
    """What an owner told, in words; `until` waits for one of them."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.failures: list[Failure] = []
        self.moves: list[str] = []
        self.on_move: Callable[[], None] = lambda: None
        self._news = asyncio.Event()

    async def until(self, words: str, times: int = 1) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.words.count(words) < times:
                self._news.clear()
                await self._news.wait()

    def _add(self, words: str) -> None:
        self.words.append(words)
        self._news.set()

    def loaded(self, engine: str, seen: Demand) -> None:
        self._add(f"loaded {seen['ram']}")

    def load_failed(self, engine: str, failure: Failure) -> None:
        self.failures.append(failure)
        self._add(f"failed {failure.kind}")

    def unloaded(self, engine: str, rest: Rest) -> None:
        self._add(rest)

    def died(self, engine: str, failure: Failure) -> None:
        self.failures.append(failure)
        self._add(f"died {failure.kind}")

    def moved(self, engine: str) -> None:
        self.moves.append(engine)
        self.on_move()
