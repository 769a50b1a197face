"""Decides which engines are loaded and which requests may go to them. Pure and synchronous: it is
told what happened and when, and answers by calls of `Effects`. See README.md."""

from collections.abc import Iterable

from services.gateway.scheduling import configuration, refusals
from services.gateway.scheduling.amounts import capped
from services.gateway.scheduling.deadlines import next_deadline
from services.gateway.scheduling.pool import Pool
from services.gateway.scheduling.record import SHORT_S, Record
from services.gateway.scheduling.settling import grant, settle
from services.gateway.scheduling.types import (
    Demand,
    Effects,
    EngineView,
    Failure,
    Limits,
    Place,
    Refusal,
    Rest,
    Target,
    Ticket,
)

# How much the last answer's time counts in the estimate of the next one's.
PACE = 0.2


class Scheduler:
    """`budget` is what engines may hold together, by device. `now` never goes back. What is told of
    an engine that is unknown, or in a state in which it cannot happen any more, is ignored: reports
    and orders may cross on their way."""

    def __init__(
        self, effects: Effects, targets: Iterable[Target], budget: Demand, limits: Limits
    ) -> None:
        self._pool = Pool(effects, budget, limits)
        for target in targets:
            configuration.add(self._pool, target, 0.0)

    # Requests

    def submit(self, ticket: Ticket, now: float) -> None:
        """It is granted, refused, or waits."""
        pool = self._pool
        pool.now = now
        engine = pool.engines.get(ticket.engine)
        if engine is None or engine.removed:
            pool.effects.refuse(ticket, refusals.unknown(ticket.engine))
            return
        waiter = pool.waiter(ticket, now)
        if engine.state == "ready" and len(engine.granted) < engine.target.concurrency:
            # Nobody waits for a slot that is free, and whoever may have it drained has done so.
            pool.tickets[ticket.id] = waiter
            grant(pool, engine, waiter, now)
            return
        if (refusal := self._turned_away(engine, now)) is not None:
            pool.effects.refuse(ticket, refusal)
            return
        pool.enqueue(engine, waiter)
        settle(pool, now)

    def finish(self, ticket_id: int, now: float) -> None:
        """A request that was granted has ended, or one that waits has left; others are ignored."""
        pool = self._pool
        pool.now = now
        waiter = pool.tickets.get(ticket_id)
        if waiter is None:
            return
        engine = pool.engines.get(waiter.ticket.engine)
        if waiter.granted_at is None:
            if engine is not None:
                pool.withdraw(engine, waiter)
                settle(pool, now)
            return
        del pool.tickets[ticket_id]
        if engine is None or engine.granted.pop(ticket_id, None) is None:
            # Its engine died under it; the one of that name that runs now never had it.
            return
        engine.used_at = now
        if engine.answered_at is None:
            engine.answered_at = now
        engine.pace_s += PACE * (now - waiter.granted_at - engine.pace_s)
        if pool.waiting or engine.state != "ready":
            settle(pool, now)

    def place(self, ticket_id: int) -> Place | None:
        """Where a request stands; None: it does not wait."""
        pool = self._pool
        waiter = pool.tickets.get(ticket_id)
        if waiter is None or waiter.granted_at is not None:
            return None
        engine = pool.engines[waiter.ticket.engine]
        position = engine.line.position(ticket_id)
        if engine.state == "loading" and not engine.aborting:
            return Place("loading", position)
        going = any(e.state in ("draining", "unloading") for e in pool)
        return Place("draining" if engine.lacking and going else "queued", position)

    # What engines tell

    def loaded(self, engine: str, now: float, demand: Demand | None = None) -> None:
        """It is ready. `demand` is what it was seen to take of the devices that are named."""
        if (record := self._at(engine, now)) is None or record.state != "loading":
            return
        pool = self._pool
        # It was decided by what was known when the load began.
        whole = not record.short(record.since)
        if record.attempt > 1:
            record.short_until = now + SHORT_S
        record.aborting = False
        record.attempt = 1
        record.failure = record.failed_until = None
        self._open(record, now, demand, whole)
        if record.leave is None:
            pool.unask(record)
        settle(pool, now)

    def load_failed(self, engine: str, failure: Failure, now: float) -> None:
        """It did not come up, and nothing of it is left."""
        if (record := self._at(engine, now)) is None or record.state != "loading":
            return
        pool = self._pool
        given_up = record.aborting or record.leave is not None or failure.kind == "aborted"
        self._stopped(record, now)
        if given_up:
            # Whoever joined since waits for the next load.
            pass
        elif failure.kind == "out_of_memory" and record.attempt == 1:
            self._clear_for(record, now)
        else:
            pool.fail(record, failure, now)
        settle(pool, now)

    def unloaded(self, engine: str, now: float, rest: Rest | None = None) -> None:
        """It has come to rest, and its memory is free. `rest` is what became of it; None: what it
        was told."""
        if (record := self._at(engine, now)) is None or record.state != "unloading":
            return
        if (rest or record.rest) == "asleep":
            record.enter("asleep", now)
            record.held = record.asleep
        else:
            self._stopped(record, now)
        settle(self._pool, now)

    def died(self, engine: str, failure: Failure, now: float) -> None:
        """It is gone by itself, its memory is free. It is loaded again for those who wait."""
        if (record := self._at(engine, now)) is None:
            return
        if record.state == "loading":
            self.load_failed(engine, failure, now)
        elif record.state in ("ready", "draining", "asleep"):
            missed = record.state != "asleep" and record.leave is None
            self._stopped(record, now)
            if missed:
                self._mourn(record, failure, now)
            settle(self._pool, now)

    def hung(self, engine: str, failure: Failure, now: float) -> None:
        """It runs and does not answer: it is ended, whoever still uses it, and loaded again for
        those who wait."""
        if (record := self._at(engine, now)) is None:
            return
        if record.state in ("ready", "draining"):
            record.granted = {}
            self._pool.unload(record, "stopped", "hung", now)
            if record.leave is None:
                self._mourn(record, failure, now)
            settle(self._pool, now)

    def adopt(
        self, engine: str, now: float, demand: Demand | None = None, whole: bool = True
    ) -> None:
        """It was found running, before any request; not `whole`: with a smaller context."""
        record = self._at(engine, now)
        if record is not None and record.state == "stopped":
            self._open(record, now, demand, whole)
            self._pool.unask(record)
            settle(self._pool, now)

    # What a person asks for

    def ask_load(self, engine: str, now: float) -> Refusal | None:
        """Load it, as if somebody waited for it until it is there or has failed."""
        record = self._at(engine, now)
        if record is None or record.removed:
            return refusals.unknown(engine)
        if record.state == "ready" and record.leave is None:
            return None
        if record.lacking and (refusal := self._pool.hopeless(record, now)) is not None:
            return refusal
        self._pool.ask(record, now)
        settle(self._pool, now)
        return None

    def ask_unload(self, engine: str, now: float) -> Refusal | None:
        """Let it finish what it does, then stop it."""
        record = self._at(engine, now)
        if record is None or record.removed:
            return refusals.unknown(engine)
        if record.pinned:
            return refusals.stays(engine, "it is pinned", "Unpin it first.")
        if self._pool.locked == engine:
            return refusals.stays(engine, "it is locked", "Unlock it first.")
        if record.line:
            said = f"{len(record.line)} requests wait for it"
            return refusals.stays(engine, said, "Try again when they are served.")
        self._pool.unask(record)
        if record.state != "stopped":
            record.leave = record.leave or "asked"
        settle(self._pool, now)
        return None

    def pin(self, engine: str, on: bool, now: float) -> None:
        """Pinned, it is not unloaded for another or for being idle."""
        if (record := self._at(engine, now)) is not None:
            record.pinned = on
            self._stay(record, on)
            settle(self._pool, now)

    def lock(self, engine: str | None, now: float) -> None:
        """Load nothing beside this engine until it is unlocked (None). What is loaded, or being
        loaded, serves; nothing is unloaded for being idle."""
        if engine is None:
            self._pool.locked = None
        elif (record := self._at(engine, now)) is not None and not record.removed:
            self._pool.locked = engine
            self._stay(record, True)
        self._pool.now = now
        settle(self._pool, now)

    def reconfigure(
        self, targets: Iterable[Target], budget: Demand, limits: Limits, now: float
    ) -> None:
        """Changed and removed engines finish what they do and go; the others are not touched. New
        and changed ones with `preload` are loaded."""
        pool = self._pool
        pool.now = now
        pool.budget = dict(budget)
        pool.limits = limits
        configuration.change(pool, targets, now)
        settle(pool, now)

    def measured(self, budget: Demand, now: float) -> None:
        """The devices have more or less for engines than before."""
        self._pool.now = now
        self._pool.budget = dict(budget)
        settle(self._pool, now)

    # Time, and what can be seen

    def tick(self, now: float) -> None:
        self._pool.now = now
        settle(self._pool, now)

    def next_deadline(self) -> float | None:
        """When `tick` has something to do; None: not before something else happens."""
        return next_deadline(self._pool)

    def views(self) -> tuple[EngineView, ...]:
        return tuple(engine.view() for engine in self._pool)

    @property
    def budget(self) -> Demand:
        return self._pool.budget

    @property
    def locked(self) -> str | None:
        return self._pool.locked

    # Inside

    def _at(self, engine: str, now: float) -> Record | None:
        self._pool.now = now
        return self._pool.engines.get(engine)

    def _turned_away(self, engine: Record, now: float) -> Refusal | None:
        pool = self._pool
        if engine.lacking and (refusal := pool.hopeless(engine, now)) is not None:
            return refusal
        if len(engine.line) >= pool.limits.queue:
            return refusals.queue_full(engine.name, pool.limits, pool.patience(engine))
        return None

    def _open(self, engine: Record, now: float, demand: Demand | None, whole: bool) -> None:
        if engine.leave is None:
            # Else it is of an older configuration, and tells nothing of the one that it has now.
            taken = engine.demand
            if demand is not None:
                taken = {**engine.target.demand, **capped(demand, self._pool.budget)}
            if whole and demand is not None:
                # What it took with less context is not what it will need with all of it.
                engine.seen = taken
            engine.held = dict(taken)
        engine.enter("ready", now)
        engine.ready_at = engine.used_at = now
        engine.answered_at = None

    def _stopped(self, engine: Record, now: float) -> None:
        engine.stop(now)
        configuration.forget(self._pool, engine)

    def _clear_for(self, engine: Record, now: float) -> None:
        """Memory was short though it should have been enough: everything that can goes from its
        devices, and once that is free, it is tried a second time."""
        pool = self._pool
        engine.attempt = 2
        beside = [e for e in pool if e is not engine and any(e.held.get(d) for d in engine.demand)]
        for other in beside:
            unused = other.idle or (other.state == "asleep" and not other.wanted)
            if unused and not pool.kept_by_order(other):
                pool.unload(other, "stopped", "memory", now)
        engine.awaits = frozenset(e.name for e in beside if e.state == "unloading")

    def _mourn(self, engine: Record, failure: Failure, now: float) -> None:
        if engine.die(failure, now):
            self._pool.fail(engine, failure, now)
        elif engine.pinned or engine.target.preload:
            self._pool.ask(engine, now)

    def _stay(self, engine: Record, on: bool) -> None:
        """What was asked to leave before stays after all."""
        if on and engine.leave == "asked":
            engine.leave = None
