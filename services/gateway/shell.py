"""The gate: what the front asks, and what owners tell, brought before the scheduler.

It counts nothing itself: who may go is the scheduler's to say, what an engine does is its owner's.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar

from contracts.tiers import Priority, Reloaded, TiersStatus
from services.gateway.catalogue import Catalogue, EngineSpec
from services.gateway.configuration import Configuration
from services.gateway.decisions import Decisions
from services.gateway.deeds import Deeds, refused
from services.gateway.engines.engine import Engine
from services.gateway.gate import Lease, OnProgress, Refused, Upstream
from services.gateway.metrics import Metrics
from services.gateway.owners import Owner, Room, fault
from services.gateway.scheduling.scheduler import Scheduler
from services.gateway.scheduling.types import (
    Demand,
    Effects,
    EngineView,
    Failure,
    Rest,
)
from services.gateway.status import (
    DeviceStatuses,
    Standing,
    gauge,
    progress_of,
    reserved,
    running_context,
    tiers_status,
)
from services.gateway.waiting import Coalesced, WaitingRoom

LOG = logging.getLogger(__name__)
MOVING = ("loading", "draining", "unloading")
Answer = TypeVar("Answer")


class _Lease:
    __slots__ = ("_finish", "_id", "upstream")

    def __init__(self, upstream: Upstream, number: int, finish: Callable[[int], None]) -> None:
        self.upstream = upstream
        self._id: int | None = number
        self._finish = finish

    def release(self) -> None:
        number, self._id = self._id, None
        if number is not None:
            self._finish(number)


class Gate:
    """One per gateway; made on its event loop."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        engine_of: Callable[[EngineSpec], Engine],
        room: Room,
        devices: DeviceStatuses,
        scheduler_of: Callable[[Configuration, Effects], Scheduler],
        reread: Callable[[], Configuration],
        budget_of: Callable[[Demand], Demand],
        metrics: Metrics,
    ) -> None:
        self._configuration = configuration
        self._engine_of = engine_of
        self._room = room
        self._devices = devices
        self._reread = reread
        self._budget_of = budget_of
        self._metrics = metrics
        self._waiting = WaitingRoom()
        self._speeds: dict[str, float] = {}
        self._draining: dict[str, float] = {}
        self._news = asyncio.Event()
        self._ends: Counter[str] = Counter()
        self._tell_watchers = Coalesced(self._progress)
        self._reloading = asyncio.Lock()
        self._measured: Demand = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._taking = False
        self.on_wanted: Callable[[str], None] = lambda engine: None
        self.owners = {name: self._owner(spec) for name, spec in self.catalogue.engines.items()}
        self._decisions = Decisions(
            Deeds(
                self._waiting,
                self.owners,
                give_back=self._finish,
                wanted=lambda engine: self.on_wanted(engine),
                goes=self._goes,
            ),
            lambda effects: scheduler_of(configuration, effects),
            self._tell_watchers,
        )
        self.last_activity = self._decisions.now
        metrics.refresh = self._gauge

    @property
    def catalogue(self) -> Catalogue:
        return self._configuration.catalogue

    def _owner(self, spec: EngineSpec) -> Owner:
        return Owner(self._engine_of(spec), self._room, self, self._metrics)

    async def open(self) -> None:
        """Take over what an earlier gateway left, then load what is to be preloaded."""
        owners = list(self.owners.values())
        found = await asyncio.gather(*(owner.adopt() for owner in owners))
        for owner, seen in zip(owners, found, strict=True):
            if seen is not None:
                self._adopted(owner, seen)
            owner.open()
        # Only now is it known what of the devices' use is our own.
        self._reconfigure(await self._budget())
        self._taking = True
        for target in self._configuration.targets:
            if target.preload:
                self._preload(target.name)

    def _adopted(self, owner: Owner, seen: Demand) -> None:
        spec = owner.spec
        whole = running_context(spec, owner) >= spec.context
        self._decisions.tell(lambda s, now: s.adopt(spec.name, now, seen, whole))

    def load_default(self) -> None:
        """Have the engine loaded that `default` means, unless one for chat is here already: an
        adopted one may be what was asked for last."""
        chat = [e.name for e in self.catalogue.engines.values() if e.entry.kind == "chat"]
        if all(self._state(name) == "stopped" for name in chat):
            self._preload(self.catalogue.default)

    def _preload(self, engine: str) -> None:
        refusal = self._decisions.tell(lambda s, now: s.ask_load(engine, now))
        if refusal is not None:
            told = {"engine": engine, "error": refusal.error.message}
            LOG.warning("engine cannot be preloaded", extra=told)

    async def close(self, stop: bool) -> None:
        """No request is here any more. With `stop` the engines are ended, else they run on."""
        self._taking = False
        self._decisions.close()
        await asyncio.gather(*(owner.close(stop) for owner in self.owners.values()), *self._closing)

    # ---- requests ----

    async def enter(
        self,
        spec: EngineSpec,
        *,
        priority: Priority = "chat",
        request_id: str = "",
        on_progress: OnProgress | None = None,
    ) -> Lease:
        owner = self.owners.get(spec.name)
        if owner is not None and owner.running is None and (lack := owner.engine.lacks()):
            raise Refused(503, lack.code, lack.message, lack.remedy)
        waiting = self._waiting.admit(spec.name, priority, request_id, on_progress)
        number = waiting.ticket.id
        self.last_activity = waiting.since
        self._decisions.tell(lambda s, now: s.submit(waiting.ticket, now))
        try:
            upstream = await waiting.granted
        except asyncio.CancelledError:
            # Also where the grant has come and its news has not: the ticket goes back either way.
            self._waiting.leave(number)
            self._finish(number)
            raise
        return _Lease(upstream, number, self._finish)

    def _finish(self, number: int) -> None:
        self.last_activity = self._decisions.now
        self._decisions.tell(lambda s, now: s.finish(number, now))

    def _progress(self) -> None:
        for waiting in self._waiting.watchers():
            name = waiting.ticket.engine
            place = self._decisions.scheduler.place(waiting.ticket.id)
            if place is not None:
                waiting.tell(progress_of(name, place, self.owners[name]))
        self._note_draining()
        self._news.set()
        self._news = asyncio.Event()

    def _note_draining(self) -> None:
        """Since when engines drain, for the metrics. For a swap none does unless somebody waits."""
        if len(self._waiting) or self._draining:
            views = self._decisions.scheduler.views()
            self._draining = {v.target.name: v.since for v in views if v.state == "draining"}

    def _goes(self, engine: str) -> None:
        since = self._draining.pop(engine, None)
        if since is not None:
            took = self._decisions.now - since
            self._metrics.swap.labels(engine, "drain").observe(took)
        self.on_wanted(engine)

    # ---- what owners tell ----

    def loaded(self, engine: str, seen: Demand) -> None:
        self._decisions.tell(lambda s, now: s.loaded(engine, now, seen))

    def load_failed(self, engine: str, failure: Failure) -> None:
        self._ends[engine] += 1
        self._decisions.tell(lambda s, now: s.load_failed(engine, failure, now))
        self._forget(engine)

    def unloaded(self, engine: str, rest: Rest) -> None:
        self._ends[engine] += 1
        self._decisions.tell(lambda s, now: s.unloaded(engine, now, rest))
        self._forget(engine)

    def died(self, engine: str, failure: Failure) -> None:
        self._ends[engine] += 1
        self._decisions.tell(lambda s, now: s.died(engine, failure, now))
        self._forget(engine)

    def moved(self, engine: str) -> None:
        self._tell_watchers()

    def hung(self, engine: str) -> None:
        """It does not answer: it is stopped, and started again if it is to stay."""
        self._metrics.restarts.labels(engine, "hung").inc()
        self.owners[engine].restarts += 1
        failure = fault(
            "timeout", "engine_hung", f"{engine} did not answer and was stopped.", "Ask again."
        )
        self._decisions.tell(lambda s, now: s.hung(engine, failure, now))

    # ---- the admin's side ----

    def _views(self) -> dict[str, EngineView]:
        return {view.target.name: view for view in self._decisions.scheduler.views()}

    def _state(self, engine: str) -> str:
        """Of one that is not configured any more: stopped."""
        view = self._views().get(engine)
        return "stopped" if view is None else view.state

    def status(self) -> TiersStatus:
        locked = self._decisions.scheduler.locked
        return tiers_status(self.catalogue, self.standings(), self._devices, locked)

    def standings(self) -> Iterator[Standing]:
        views, now = self._views(), self._decisions.now
        for name, spec in self.catalogue.engines.items():
            yield Standing(spec, views[name], self.owners[name], self._speeds.get(name), now)

    def running_context(self, spec: EngineSpec) -> int:
        owner = self.owners.get(spec.name)
        return spec.context if owner is None else running_context(spec, owner)

    async def load(self, spec: EngineSpec, on_progress: OnProgress | None = None) -> None:
        """A request that asks nothing: it waits as others do, and is refused as they are."""
        if self._state(spec.name) != "ready":
            lease = await self.enter(spec, request_id="load", on_progress=on_progress)
            lease.release()

    async def unload(self, spec: EngineSpec) -> None:
        # Its state alone would not tell: it may be loaded again for somebody before this looks.
        before = self._ends[spec.name]
        refusal = self._decisions.tell(lambda s, now: s.ask_unload(spec.name, now))
        if refusal is not None:
            raise refused(refusal)
        while self._state(spec.name) != "stopped" and self._ends[spec.name] == before:
            await self._news.wait()

    def pin(self, spec: EngineSpec, on: bool) -> None:
        self._decisions.tell(lambda s, now: s.pin(spec.name, on, now))

    def lock(self, spec: EngineSpec, on: bool) -> None:
        held = self._decisions.scheduler.locked
        if on or held == spec.name:
            self._decisions.tell(lambda s, now: s.lock(spec.name if on else None, now))

    async def reload(self) -> Reloaded:
        """As the protocol says. One at a time; what is read is read in a thread."""
        async with self._reloading:
            new = await asyncio.to_thread(self._reread)
            return self._change_to(new, await self._budget())

    def _change_to(self, new: Configuration, budget: Demand) -> Reloaded:
        change = self._configuration.change_to(new)
        for name, spec in new.catalogue.engines.items():
            known = self.owners.get(name)
            if known is not None:
                known.change(spec)
                continue
            self.owners[name] = owner = self._owner(spec)
            owner.open()
        self._configuration = new
        self._reconfigure(budget)
        for name in change.removed:
            self._forget(name)
        return change

    async def _budget(self) -> Demand:
        """In a thread: a driver in trouble must not hold up the streams that run."""
        held = reserved(self._decisions.scheduler.views())
        return await asyncio.to_thread(self._budget_of, held)

    def _reconfigure(self, budget: Demand) -> None:
        told = self._configuration
        self._decisions.tell(lambda s, now: s.reconfigure(told.targets, budget, told.limits, now))

    async def measure(self) -> None:
        """Ask the devices again what there is for engines: other programs come and go. What they
        take can only be told where no engine of ours is; less than before counts when it is seen
        twice, as what has just ended gives its memory back a moment later."""
        before = reserved(self._decisions.scheduler.views())
        seen = await asyncio.to_thread(self._budget_of, before)
        after, known = reserved(self._decisions.scheduler.views()), self._decisions.scheduler.budget
        told = {d: mib for d, mib in seen.items() if not before.get(d) and not after.get(d)}
        steady = {d: max(mib, self._measured.get(d, known.get(d, 0))) for d, mib in told.items()}
        self._measured = told
        budget = {**known, **steady}
        if budget != known:
            LOG.info("memory for engines has changed", extra={"budget_mib": budget})
            self._decisions.tell(lambda s, now: s.measured(budget, now))

    def _forget(self, engine: str) -> None:
        """The owner of an engine that is no longer configured ends once it has nothing to own."""
        if engine in self.catalogue.engines or engine in self._views():
            return
        owner = self.owners.pop(engine)
        closing = asyncio.create_task(owner.close(stop=True))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def logs(self, spec: EngineSpec, follow: bool) -> AsyncIterator[bytes]:
        return self.owners[spec.name].engine.logs(follow)

    def note_speed(self, spec: EngineSpec, tokens_per_s: float) -> None:
        self._speeds[spec.name] = tokens_per_s

    def ready(self) -> bool:
        return self._taking

    def busy(self) -> bool:
        """Whether a request is here, or an engine comes or goes."""
        views = self._decisions.scheduler.views()
        return any(v.in_flight or v.queued or v.state in MOVING for v in views)

    def _gauge(self) -> None:
        gauge(self._metrics, self.status())
