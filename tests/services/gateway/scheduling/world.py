"""Engines, cards and clients as the scheduler's effects move them; every effect is checked against
what is really the case, whatever the scheduler believes."""

from dataclasses import dataclass, field

from contracts.tiers import Priority
from services.gateway.scheduling.amounts import larger, total
from services.gateway.scheduling.scheduler import Scheduler
from services.gateway.scheduling.types import (
    Demand,
    FailureKind,
    Limits,
    Refusal,
    Rest,
    Target,
    Ticket,
)
from tests.services.gateway.scheduling.stage import failure

Nothing: Demand = {}


@dataclass
class Body:
    """What runs of an engine, if anything. `target` is what it was started with."""

    target: Target
    does: str = "stopped"
    holds: Demand = field(default_factory=dict)
    users: set[int] = field(default_factory=set)
    rest: Rest = "stopped"
    aborted: bool = False
    due: float = 0.0


class World:
    """`open` are tickets that wait, `inside` those that were granted, `ended` the others."""

    def __init__(self, targets: list[Target], budget: Demand, limits: Limits) -> None:
        self.now = 0.0
        self.targets = {t.name: t for t in targets}
        self.bodies = {t.name: Body(t) for t in targets}
        self.budget = budget
        self.limits = limits
        self.strict = True
        self.open: set[int] = set()
        self.inside: dict[int, str] = {}
        self.ended: set[int] = set()
        self.tickets: dict[int, Ticket] = {}
        self.granted_at: dict[int, float] = {}
        self.scheduler = Scheduler(self, targets, budget, limits)

    # The scheduler's effects

    def load(self, engine: str, attempt: int) -> None:
        body = self.bodies[engine]
        assert body.does in ("stopped", "asleep"), f"{engine} is {body.does}"
        assert attempt in (1, 2)
        body.target = self.targets[engine]
        body.holds = larger(body.holds, self._demand(engine))
        body.does, body.due, body.aborted = "loading", self.now, False
        self.check_memory()

    def abort_load(self, engine: str) -> None:
        body = self.bodies[engine]
        assert body.does == "loading"
        assert not body.aborted
        body.aborted = True

    def unload(self, engine: str, rest: Rest, reason: str) -> None:
        body = self.bodies[engine]
        assert body.does in ("ready", "asleep"), f"{engine} is {body.does}"
        assert not body.users or reason == "hung", f"{reason} of {engine} cuts {body.users}"
        if reason in ("evicted", "idle", "memory"):
            assert not self.pinned(engine), f"{engine} is pinned"
            assert self.scheduler.locked != engine
        if rest == "asleep":
            assert body.target.asleep is not None
            body.holds = larger(body.holds, body.target.asleep)
        body.users = set()
        body.does, body.rest, body.due = "unloading", rest, self.now
        self.check_memory()

    def grant(self, ticket: Ticket) -> None:
        body = self.bodies[ticket.engine]
        assert body.does == "ready", f"{ticket.engine} is {body.does}"
        assert body.target == self.targets[ticket.engine] or body.target.fingerprint
        assert len(body.users) < body.target.concurrency
        self.open.remove(ticket.id)
        self.inside[ticket.id] = ticket.engine
        self.granted_at[ticket.id] = self.now
        body.users.add(ticket.id)

    def refuse(self, ticket: Ticket, refusal: Refusal) -> None:
        assert refusal.status in (404, 409, 429, 503)
        assert refusal.status != 429 or (refusal.retry_after_s or 0) >= 1
        assert refusal.error.code
        assert refusal.error.message
        assert refusal.error.remedy
        self.open.remove(ticket.id)
        self.ended.add(ticket.id)

    # What happens

    def submit(self, engine: str, priority: Priority) -> int:
        ticket = Ticket(len(self.tickets) + 1, engine, priority)
        self.tickets[ticket.id] = ticket
        self.open.add(ticket.id)
        self.scheduler.submit(ticket, self.now)
        return ticket.id

    def finish(self, id: int) -> None:
        """A stream ends, or a waiting client leaves."""
        self.open.discard(id)
        engine = self.inside.pop(id, None)
        if engine is not None:
            self.bodies[engine].users.discard(id)
        self.ended.add(id)
        self.scheduler.finish(id, self.now)

    def loaded(self, engine: str, seen: Demand | None = None) -> None:
        body = self.bodies[engine]
        body.does = "ready"
        body.holds = seen if seen is not None else self._of(body)
        self.scheduler.loaded(engine, self.now, seen)

    def load_failed(self, engine: str, kind: FailureKind) -> None:
        self._stop(engine)
        self.scheduler.load_failed(engine, failure(kind), self.now)

    def unloaded(self, engine: str) -> None:
        body = self.bodies[engine]
        if body.rest == "asleep":
            body.does, body.holds = "asleep", body.target.asleep or {}
        else:
            self._stop(engine)
        self.scheduler.unloaded(engine, self.now)

    def died(self, engine: str) -> None:
        self._stop(engine)
        self.scheduler.died(engine, failure(code="engine_died"), self.now)

    def hung(self, engine: str) -> None:
        self.scheduler.hung(engine, failure(code="engine_hung"), self.now)

    def adopt(self, engine: str) -> None:
        body = self.bodies[engine]
        body.does, body.holds = "ready", body.target.demand
        self.scheduler.adopt(engine, self.now)

    def reconfigure(self, targets: list[Target], budget: Demand, limits: Limits) -> None:
        if any(budget.get(d, 0) < mib for d, mib in self.budget.items()):
            # What runs stays, though the budget is less now.
            self.strict = False
        self.budget, self.limits = budget, limits
        self.targets = {t.name: t for t in targets}
        for target in targets:
            body = self.bodies.setdefault(target.name, Body(target))
            if body.does == "stopped":
                body.target = target
        self.scheduler.reconfigure(targets, budget, limits, self.now)

    def tick(self) -> None:
        self.scheduler.tick(self.now)

    # What has to hold

    def pinned(self, engine: str) -> bool:
        views = {v.target.name: v for v in self.scheduler.views()}
        return engine in views and views[engine].target.pinned

    def check_memory(self) -> None:
        if not self.strict:
            return
        held = total(body.holds for body in self.bodies.values())
        for device, mib in held.items():
            assert mib <= self.budget.get(device, 0), f"{device}: {mib} of {self.budget}"

    def check(self) -> None:
        """After each step: nothing is over-committed, and both sides see the same engines."""
        self.check_memory()
        views = {v.target.name: v for v in self.scheduler.views()}
        for name, body in self.bodies.items():
            view = views.get(name)
            if view is None:
                assert body.does == "stopped"
                continue
            seen = "ready" if view.state == "draining" else view.state
            assert seen == body.does, f"{name}: {view.state}, really {body.does}"
            assert view.in_flight == len(body.users)
            assert view.state != "draining" or body.users, f"{name} has nothing to finish"
            free = view.target.concurrency - len(body.users)
            assert view.state != "ready" or not view.queued or free <= 0, f"{name} lets nobody in"
            if self.strict:
                for device, mib in body.holds.items():
                    assert view.reserved.get(device, 0) >= mib
        waiting = sum(v.queued for v in views.values())
        assert waiting == len(self.open)
        assert self.scheduler._pool.waiting == waiting + sum(
            e.asked is not None for e in self.scheduler._pool
        )
        at = self.scheduler.next_deadline()
        assert at is None or at > self.now or self.scheduler.locked

    def _of(self, body: Body) -> Demand:
        known = self.targets.get(body.target.name) == body.target
        return self._demand(body.target.name) if known else body.holds

    def _demand(self, engine: str) -> Demand:
        """What the scheduler was told last that it takes."""
        views = {v.target.name: v for v in self.scheduler.views()}
        return views[engine].target.demand

    def _stop(self, engine: str) -> None:
        body = self.bodies[engine]
        body.does, body.holds, body.users, body.aborted = "stopped", Nothing, set(), False
        if engine in self.targets:
            body.target = self.targets[engine]


def play(world: World, load_s: float, unload_s: float, stream_s: float, limit: int = 2000) -> None:
    """Let everything take its course until every request has ended: loads succeed, streams end,
    clients stay. Fails if that does not come about."""
    for _ in range(limit):
        if not world.open and not world.inside:
            return
        _next(world, load_s, unload_s, stream_s)
        world.check()
    views = [(v.target.name, v.state, v.in_flight, v.queued) for v in world.scheduler.views()]
    raise AssertionError(f"still here: {world.open}, {world.inside}; engines: {views}")


def _next(world: World, load_s: float, unload_s: float, stream_s: float) -> None:
    """Turn the clock to whatever comes next, and let it happen."""
    coming: list[tuple[float, int, str]] = []
    for name, body in world.bodies.items():
        if body.does == "loading":
            coming.append((body.due + load_s, 0, name))
        if body.does == "unloading":
            coming.append((body.due + unload_s, 1, name))
    coming += [(world.granted_at[id] + stream_s, 2, str(id)) for id in world.inside]
    if (at := world.scheduler.next_deadline()) is not None:
        coming.append((at, 3, ""))
    assert coming, "nothing will ever happen again"
    at, what, who = min(coming)
    world.now = max(world.now, at)
    if what == 0 and world.bodies[who].aborted:
        world.load_failed(who, "aborted")
    elif what == 0:
        world.loaded(who)
    elif what == 1:
        world.unloaded(who)
    elif what == 2:
        world.finish(int(who))
    else:
        world.tick()
