"""A scheduler with a clock that tests turn, and effects that only write down what they are told."""

from contracts.errors import ErrorBody
from contracts.tiers import Priority
from services.gateway.scheduling.scheduler import Scheduler
from services.gateway.scheduling.types import (
    Demand,
    EngineView,
    Failure,
    FailureKind,
    Limits,
    Refusal,
    Rest,
    Target,
    Ticket,
)

CARD = {"card0": 10}


def engine(name: str, mib: int = 10, **settings: object) -> Target:
    return Target(name, {"card0": mib}, **settings)  # type: ignore[arg-type]


def failure(kind: FailureKind = "crashed", code: str = "engine_failed") -> Failure:
    return Failure(kind, ErrorBody(code=code, message="It did not come up.", remedy="See its log."))


class Recorder:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.refusals: dict[int, Refusal] = {}

    def load(self, engine: str, attempt: int) -> None:
        self.calls.append(f"load {engine}" + (f" attempt {attempt}" if attempt > 1 else ""))

    def abort_load(self, engine: str) -> None:
        self.calls.append(f"abort {engine}")

    def unload(self, engine: str, rest: Rest, reason: str) -> None:
        self.calls.append(f"{reason} {engine}" + (" asleep" if rest == "asleep" else ""))

    def grant(self, ticket: Ticket) -> None:
        self.calls.append(f"grant {ticket.id}")

    def refuse(self, ticket: Ticket, refusal: Refusal) -> None:
        self.calls.append(f"refuse {ticket.id} {refusal.status} {refusal.error.code}")
        self.refusals[ticket.id] = refusal


class Stage:
    """`targets` on one card of 10 MiB, unless `budget` says otherwise. Each step answers with the
    effects that it led to."""

    def __init__(self, *targets: Target, budget: Demand = CARD, **limits: float) -> None:
        self.effects = Recorder()
        self.limits = Limits(**limits)  # type: ignore[arg-type]
        self.scheduler = Scheduler(self.effects, targets, budget, self.limits)
        self.now = 0.0

    def told(self) -> list[str]:
        calls, self.effects.calls = self.effects.calls, []
        return calls

    def submit(self, id: int, engine: str, priority: Priority = "chat") -> list[str]:
        self.scheduler.submit(Ticket(id, engine, priority), self.now)
        return self.told()

    def finish(self, id: int) -> list[str]:
        self.scheduler.finish(id, self.now)
        return self.told()

    def loaded(self, engine: str, demand: Demand | None = None) -> list[str]:
        self.scheduler.loaded(engine, self.now, demand)
        return self.told()

    def load_failed(self, engine: str, failure: Failure) -> list[str]:
        self.scheduler.load_failed(engine, failure, self.now)
        return self.told()

    def unloaded(self, engine: str) -> list[str]:
        self.scheduler.unloaded(engine, self.now)
        return self.told()

    def died(self, engine: str) -> list[str]:
        self.scheduler.died(engine, failure(code="engine_died"), self.now)
        return self.told()

    def hung(self, engine: str) -> list[str]:
        self.scheduler.hung(engine, failure(code="engine_hung"), self.now)
        return self.told()

    def adopt(self, engine: str) -> list[str]:
        self.scheduler.adopt(engine, self.now)
        return self.told()

    def pin(self, engine: str, on: bool = True) -> list[str]:
        self.scheduler.pin(engine, on, self.now)
        return self.told()

    def lock(self, engine: str | None) -> list[str]:
        self.scheduler.lock(engine, self.now)
        return self.told()

    def ask_load(self, engine: str) -> list[str]:
        refusal = self.scheduler.ask_load(engine, self.now)
        return [*self.told(), *([f"{refusal.status} {refusal.error.code}"] if refusal else [])]

    def ask_unload(self, engine: str) -> list[str]:
        refusal = self.scheduler.ask_unload(engine, self.now)
        return [*self.told(), *([f"{refusal.status} {refusal.error.code}"] if refusal else [])]

    def reconfigure(self, *targets: Target, budget: Demand | None = None) -> list[str]:
        budget = self.scheduler.budget if budget is None else budget
        self.scheduler.reconfigure(targets, budget, self.limits, self.now)
        return self.told()

    def wait(self, seconds: float) -> list[str]:
        """Let time pass; the scheduler is woken at the deadlines that it names, no others."""
        end = self.now + seconds
        while (at := self.scheduler.next_deadline()) is not None and at <= end:
            assert at > self.now, "a deadline in the past would be met for ever"
            self.now = at
            self.scheduler.tick(at)
        self.now = end
        return self.told()

    def load(self, *engines: str) -> None:
        """Have them ready and idle."""
        for name in engines:
            assert self.ask_load(name) == [f"load {name}"]
            assert self.loaded(name) == []

    def view(self, engine: str) -> EngineView:
        return next(v for v in self.scheduler.views() if v.target.name == engine)

    def state(self, engine: str) -> str:
        return self.view(engine).state

    def message(self, id: int) -> str:
        return self.effects.refusals[id].error.message
