"""All engines, the memory that they share, who waits for them, and why one may not be loaded."""

from collections.abc import Iterator

from services.gateway.scheduling import refusals
from services.gateway.scheduling.amounts import lacking, larger, minus, plus, total
from services.gateway.scheduling.line import Waiter
from services.gateway.scheduling.record import Record
from services.gateway.scheduling.types import (
    Demand,
    Effects,
    Failure,
    Limits,
    Refusal,
    Rest,
    Ticket,
)


class Pool:
    """The scheduler's state. `waiting` counts those who wait, whoever they wait for; `now` is the
    time that the scheduler was told last."""

    def __init__(self, effects: Effects, budget: Demand, limits: Limits) -> None:
        self.effects = effects
        self.budget = dict(budget)
        self.limits = limits
        self.locked: str | None = None
        self.engines: dict[str, Record] = {}
        self.tickets: dict[int, Waiter] = {}
        self.waiting = 0
        self.now = 0.0
        self._number = 0

    def __iter__(self) -> Iterator[Record]:
        return iter(self.engines.values())

    # Memory

    def free(self) -> dict[str, int]:
        """What is left of each device now; negative where an engine took more than was thought."""
        return minus(self.budget, total(e.held for e in self))

    def coming(self) -> dict[str, int]:
        """What will be free soon without any further order: of engines that come to rest, and of
        loads that were given up."""
        going = (e for e in self if e.state == "unloading" or e.aborting)
        return total(minus(e.held, e.kept) for e in going)

    # Those who wait

    def waiter(self, ticket: Ticket, now: float) -> Waiter:
        self._number += 1
        return Waiter(ticket, now, self._number)

    def enqueue(self, engine: Record, waiter: Waiter) -> None:
        engine.line.add(waiter)
        self.tickets[waiter.ticket.id] = waiter
        self.waiting += 1

    def withdraw(self, engine: Record, waiter: Waiter) -> None:
        """It waits no more."""
        engine.line.remove(waiter)
        del self.tickets[waiter.ticket.id]
        self.waiting -= 1

    def ask(self, engine: Record, now: float) -> None:
        """Somebody wants it loaded, without a request."""
        if engine.asked is None:
            engine.asked = self.waiter(Ticket(0, engine.name), now)
            self.waiting += 1

    def unask(self, engine: Record) -> None:
        if engine.asked is not None:
            engine.asked = None
            self.waiting -= 1

    def refuse(self, engine: Record, waiter: Waiter, refusal: Refusal) -> None:
        self.withdraw(engine, waiter)
        self.effects.refuse(waiter.ticket, refusal)

    def refuse_all(self, engine: Record, refusal: Refusal) -> None:
        """Whoever waits for it is told why; who asked for it without a request can see it there."""
        if engine.asked is not None:
            self.unask(engine)
            engine.failure = Failure("refused", refusal.error)
        for waiter in tuple(engine.line):
            self.refuse(engine, waiter, refusal)

    def fail(self, engine: Record, failure: Failure, now: float) -> None:
        """It is not tried again for a while, and nobody waits for it."""
        engine.attempt = 1
        self.refuse_all(engine, refusals.failed(failure, self.limits.retry_s))
        engine.failure = failure
        engine.failed_until = now + self.limits.retry_s

    def patience(self, engine: Record) -> float:
        """Seconds after which its line may be shorter; at least one."""
        ahead = len(engine.line) + len(engine.granted)
        return max(1.0, round(engine.pace_s * ahead / engine.target.concurrency, 1))

    # What may be done

    def kept_by_order(self, engine: Record) -> bool:
        """Nothing but its own failure ends it."""
        return engine.pinned or self.locked == engine.name

    def hopeless(self, engine: Record, now: float) -> Refusal | None:
        """Why it cannot be loaded, as things stand; None: it can, if not at once."""
        if self.locked is not None and self.locked != engine.name:
            return refusals.locked(engine.name, self.locked)
        if engine.failed_until is not None and now < engine.failed_until and engine.failure:
            return refusals.failed(engine.failure, engine.failed_until - now)
        if lacking(engine.demand, self.budget):
            return refusals.too_large(engine.name, engine.demand, self.budget)
        return self._behind_pins(engine)

    def _behind_pins(self, engine: Record) -> Refusal | None:
        pins = {
            e.name: e.held
            for e in self
            if e.pinned
            and e is not engine
            and e.leave is None
            and e.state in ("loading", "ready", "draining", "asleep")
        }
        need = larger(engine.demand, engine.kept)
        room = minus(self.budget, total(pins.values()))
        missing = lacking(need, room)
        if not missing:
            return None
        guilty = [name for name, held in pins.items() if any(held.get(d) for d in missing)]
        return refusals.pins_in_the_way(engine.name, guilty, engine.demand, room)

    def unload(self, engine: Record, rest: Rest, reason: str, now: float) -> None:
        """End it. Its memory counts until `unloaded` is told; asleep, what that takes counts at
        once."""
        engine.enter("unloading", now)
        engine.rest = rest
        if rest == "asleep":
            # That of now: its target may change before it is asleep.
            engine.asleep = engine.target.asleep or {}
            engine.held = larger(engine.held, engine.asleep)
        self.effects.unload(engine.name, rest, reason)

    def load(self, engine: Record, now: float) -> None:
        engine.held = plus(engine.need, engine.kept)
        engine.awaits = frozenset()
        engine.enter("loading", now)
        self.effects.load(engine.name, 2 if engine.short(now) else 1)
