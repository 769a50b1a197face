"""One owner per engine: the only one who starts, stops, wakes and watches it.

Others put commands into its inbox and are told what came of them; nobody else looks at an engine's
state to decide what to do to it. So a request during a stop is a load after it, in this order.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Protocol

from contracts.errors import ErrorBody, VarietError
from contracts.tiers import LoadPhase
from services.gateway.catalogue import EngineSpec
from services.gateway.engines.engine import Engine, LoadError, Running
from services.gateway.memory.load_log import out_of_memory
from services.gateway.metrics import Metrics
from services.gateway.scheduling.types import Demand, Failure, FailureKind, Rest

LOG = logging.getLogger(__name__)
WATCH_AGAIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How an engine is to be started: `context` tokens per request, and what that takes."""

    context: int
    demand: Demand


class Room(Protocol):
    """What an owner asks of the memory."""

    def plan(self, spec: EngineSpec, attempt: int) -> Plan:
        """`attempt` 2: with a smaller context, since memory was short."""

    async def wait(self, spec: EngineSpec, plan: Plan, asleep: bool) -> None:
        """Until the devices themselves have it free. Raises LoadError with what is lacking."""

    def note(self, spec: EngineSpec, running: Running, plan: Plan | None) -> Demand:
        """Keep what it took, and return it; `plan` None: it was found running."""


class Listener(Protocol):
    """Who is told of what an owner has done. Calls return at once."""

    def loaded(self, engine: str, seen: Demand) -> None: ...

    def load_failed(self, engine: str, failure: Failure) -> None: ...

    def unloaded(self, engine: str, rest: Rest) -> None: ...

    def died(self, engine: str, failure: Failure) -> None: ...

    def moved(self, engine: str) -> None:
        """A load has come further."""


@dataclass(slots=True)
class _Load:
    attempt: int
    aborted: bool = False


@dataclass(frozen=True, slots=True)
class _Unload:
    rest: Rest
    reason: str


@dataclass(frozen=True, slots=True)
class _Ended:
    running: Running
    words: str


@dataclass(frozen=True, slots=True)
class _Close:
    stop: bool


class Owner:
    """Commands return at once. `running` is None unless the engine answers."""

    def __init__(self, engine: Engine, room: Room, listener: Listener, metrics: Metrics) -> None:
        self.engine = engine
        self.running: Running | None = None
        self.phase: LoadPhase | None = None
        self.progress: float | None = None
        self.detail = ""
        self.restarts = 0
        self.spec = engine.spec
        self._room = room
        self._listener = listener
        self._metrics = metrics
        self._asleep = False
        self._phase_since = 0.0
        self._inbox: asyncio.Queue[_Load | _Unload | _Ended | _Close] = asyncio.Queue()
        self._asked: _Load | None = None
        self._loading: asyncio.Task[tuple[Running, Plan]] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._owning: asyncio.Task[None] | None = None

    async def adopt(self) -> Demand | None:
        """Take over what an earlier gateway left running, before `open`. Returns what it takes;
        None: nothing runs."""
        running = await self.engine.find()
        if running is None:
            return None
        self._take(running)
        LOG.info("engine adopted", extra={"engine": self.spec.name, "context": running.context})
        return self._room.note(self.spec, running, None)

    def open(self) -> None:
        self._owning = asyncio.create_task(self._own(), name=f"owner of {self.spec.name}")

    async def close(self, stop: bool) -> None:
        """A load under way is given up. With `stop` the engine is ended, else it runs on."""
        self.abort_load()
        self._inbox.put_nowait(_Close(stop))
        if self._owning is not None:
            await self._owning

    def change(self, spec: EngineSpec) -> None:
        """It is to be `spec` from now on. What runs by another fingerprint stays as it is until its
        next load; to unload it is the scheduler's to say."""
        if spec.fingerprint == self.engine.spec.fingerprint:
            self.engine.spec = spec
        self.spec = spec

    def load(self, attempt: int) -> None:
        self._asked = _Load(attempt)
        self._inbox.put_nowait(self._asked)

    def abort_load(self) -> None:
        """What is finished stays finished: whether it was in time is the owner's to say."""
        if self._asked is not None:
            self._asked.aborted = True
        if self._loading is not None:
            self._loading.cancel()

    def unload(self, rest: Rest, reason: str) -> None:
        self._inbox.put_nowait(_Unload(rest, reason))

    async def _own(self) -> None:
        while True:
            command = await self._inbox.get()
            match command:
                case _Load():
                    await self._load(command)
                case _Unload():
                    await self._unload(command)
                case _Ended():
                    await self._bury(command)
                case _Close():
                    await self._finish(command.stop)
                    return

    async def _load(self, command: _Load) -> None:
        if command.aborted:
            self._failed(_aborted(self.spec))
            return
        self._loading = asyncio.create_task(self._bring_up(command.attempt))
        await asyncio.wait({self._loading})
        loading, self._loading, self._asked = self._loading, None, None
        self._enter(None)
        if loading.cancelled():
            self._asleep = False
            self._failed(_aborted(self.spec))
        elif (error := loading.exception()) is not None:
            self._asleep = False
            self._failed(await self._failure(error))
        else:
            running, plan = loading.result()
            self._take(running)
            seen = self._room.note(self.spec, running, plan)
            told = {"engine": self.spec.name, "context": running.context, "memory_mib": dict(seen)}
            LOG.info("engine ready", extra=told)
            self._listener.loaded(self.spec.name, seen)

    async def _bring_up(self, attempt: int) -> tuple[Running, Plan]:
        # In a thread: it may have to read a file's header.
        plan = await asyncio.to_thread(self._room.plan, self.spec, attempt)
        told = {"engine": self.spec.name, "context": plan.context, "attempt": attempt}
        LOG.info("engine starts", extra=told)
        self._enter("memory")
        await self._room.wait(self.spec, plan, self._asleep)
        self._enter("start")
        if self._asleep and (running := await self._wake(plan)) is not None:
            return running, plan
        self.engine.spec = self.spec
        return await self.engine.start(plan.context, self._on_phase), plan

    async def _wake(self, plan: Plan) -> Running | None:
        """None: it has to be started anew. One that slept with more context than fits now is."""
        self._asleep = False
        if plan.context < self.spec.context or self.engine.spec != self.spec:
            await self.engine.stop()
            return None
        try:
            return await self.engine.wake(self._on_phase)
        except LoadError as error:
            if error.kind == "out_of_memory":
                raise
            LOG.warning(
                "engine did not wake", extra={"engine": self.spec.name, "error": str(error)}
            )
            await self.engine.stop()
            return None

    async def _failure(self, error: BaseException) -> Failure:
        if isinstance(error, LoadError):
            return Failure(error.kind, ErrorBody(**error.body()))
        if isinstance(error, VarietError):
            return Failure("crashed", ErrorBody(**error.body()))
        # boundary: whatever a driver or Docker raises, the requests that wait are told, and go on.
        LOG.error("engine start broke off", exc_info=error, extra={"engine": self.spec.name})
        await self._stop()
        said = f"{self.spec.name} could not be started: {type(error).__name__}: {error}"
        return fault("crashed", "engine_failed", said, "Look at the gateway's log.")

    def _failed(self, failure: Failure) -> None:
        if failure.kind != "aborted":
            self.restarts += 1
            self._metrics.restarts.labels(self.spec.name, failure.kind).inc()
        told = {"engine": self.spec.name, "kind": failure.kind, "error": failure.error.message}
        LOG.warning("engine is not up", extra=told)
        self._listener.load_failed(self.spec.name, failure)

    async def _unload(self, command: _Unload) -> None:
        name = self.spec.name
        self._leave()
        LOG.info(
            "engine goes", extra={"engine": name, "rest": command.rest, "reason": command.reason}
        )
        started = asyncio.get_running_loop().time()
        rest = await self._put_down(command.rest)
        took = asyncio.get_running_loop().time() - started
        self._asleep = rest == "asleep"
        self._metrics.swap.labels(name, "stop").observe(took)
        self._metrics.evictions.labels(name, command.reason).inc()
        LOG.info("engine is gone", extra={"engine": name, "rest": rest, "seconds": round(took, 3)})
        self._listener.unloaded(name, rest)

    async def _put_down(self, rest: Rest) -> Rest:
        if rest == "asleep":
            try:
                await self.engine.sleep()
            except VarietError as error:
                said = {"engine": self.spec.name, "error": str(error)}
                LOG.warning("engine does not sleep and is stopped", extra=said)
            else:
                return "asleep"
        await self._stop()
        return "stopped"

    async def _stop(self) -> None:
        try:
            await self.engine.stop()
        except Exception:  # boundary: a stop that fails must not end the owner; a start clears up
            LOG.exception("engine could not be stopped", extra={"engine": self.spec.name})

    async def _bury(self, command: _Ended) -> None:
        # A notice of one that was stopped meanwhile is late, not news.
        if command.running is not self.running:
            return
        self._leave()
        self.restarts += 1
        kind: FailureKind = "out_of_memory" if out_of_memory([command.words]) else "crashed"
        self._metrics.restarts.labels(self.spec.name, kind).inc()
        failure = fault(
            kind,
            "engine_died",
            f"{self.spec.name} ended by itself: {command.words}",
            "Ask again: it is started anew. Its log: GET /tiers/NAME/logs.",
        )
        LOG.error("engine died", extra={"engine": self.spec.name, "error": command.words})
        # Told first: who waits for its answer need not wait for its removal.
        self._listener.died(self.spec.name, failure)
        await self._stop()

    async def _finish(self, stop: bool) -> None:
        known = self.running is not None or self._asleep
        self._leave()
        if stop and known:
            await self._stop()

    def _take(self, running: Running) -> None:
        self.running = running
        self._watching = asyncio.create_task(self._watch(running))

    def _leave(self) -> None:
        self.running = None
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    async def _watch(self, running: Running) -> None:
        while True:
            try:
                words = await self.engine.ended()
            except Exception:  # boundary: no news of an engine is no news of its end
                LOG.exception("engine cannot be watched", extra={"engine": self.spec.name})
                await asyncio.sleep(WATCH_AGAIN_S)
            else:
                self._inbox.put_nowait(_Ended(running, words))
                return

    def _on_phase(self, progress: float | None, words: str) -> None:
        """The first word of an engine that is being started ends its start proper."""
        if self.phase == "start":
            self._enter("ready")
        self.progress, self.detail = progress, words
        self._listener.moved(self.spec.name)

    def _enter(self, phase: LoadPhase | None) -> None:
        now = asyncio.get_running_loop().time()
        if self.phase is not None:
            self._metrics.swap.labels(self.spec.name, self.phase).observe(now - self._phase_since)
        self.phase, self._phase_since, self.progress, self.detail = phase, now, None, ""
        if phase is not None:
            self._listener.moved(self.spec.name)


def _aborted(spec: EngineSpec) -> Failure:
    said = f"The load of {spec.name} was given up: nobody waited for it any more."
    return fault("aborted", "load_aborted", said, "Ask again.")


def fault(kind: FailureKind, code: str, message: str, remedy: str) -> Failure:
    return Failure(kind, ErrorBody(code=code, message=message, remedy=remedy))
