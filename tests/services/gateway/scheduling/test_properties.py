"""Random histories: whatever happens, in whatever order, nothing is over-committed, cut, lost or
served twice, and in the end every request has ended.

SCHEDULER_EXAMPLES sets how many histories; the nightly target takes many more.
"""

import os
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.gateway.scheduling.types import Limits, Target
from tests.services.gateway.scheduling.world import World, play

EXAMPLES = int(os.environ.get("SCHEDULER_EXAMPLES", "60"))
NAMES = ("a", "b", "c", "d")
DEVICES = ("card0", "card1", "ram")
BUDGET = {"card0": 10, "card1": 10, "ram": 15}

priorities = st.sampled_from(["chat", "chat", "background"])
rarely = st.integers(0, 7).map(lambda n: n == 0)
seconds = st.sampled_from([0.0, 0.5, 3.0, 15.0, 40.0, 61.0, 200.0])


@st.composite
def targets(draw: st.DrawFn, name: str) -> Target:
    demand = {d: draw(st.sampled_from([0, 0, 3, 4, 6, 9])) for d in DEVICES}
    asleep = {"card0": min(1, demand["card0"]), "ram": draw(st.integers(1, 9))}
    return Target(
        name,
        demand,
        concurrency=draw(st.integers(1, 3)),
        asleep=asleep if draw(st.booleans()) else None,
        pinned=draw(rarely) and draw(rarely),
        preload=draw(rarely),
        ttl_s=draw(st.sampled_from([None, None, 30.0])),
        min_warm_s=draw(st.sampled_from([0.0, 0.0, 10.0])),
    )


limits = st.builds(
    Limits,
    queue=st.sampled_from([2, 50]),
    queue_timeout_s=st.sampled_from([100.0, 600.0]),
    max_wait_s=st.sampled_from([0.0, 20.0, 60.0]),
    retry_s=st.just(10.0),
)


class Histories(RuleBasedStateMachine):
    world: World

    @initialize(data=st.data(), limits=limits)
    def open(self, data: st.DataObject, limits: Limits) -> None:
        self.world = World([data.draw(targets(n)) for n in NAMES], BUDGET, limits)
        if data.draw(st.booleans()):
            self.world.adopt("a")

    def those(self, *states: str) -> list[str]:
        return [n for n, body in self.world.bodies.items() if body.does in states]

    @rule(data=st.data(), priority=priorities, name=st.sampled_from([*NAMES, *NAMES, "none"]))
    def submit(self, data: st.DataObject, priority: str, name: str) -> None:
        for _ in range(data.draw(st.integers(1, 3))):
            self.world.submit(name, priority)  # type: ignore[arg-type]

    @precondition(lambda self: self.those("loading", "unloading"))
    @rule(data=st.data())
    def go_on(self, data: st.DataObject) -> None:
        """What is under way comes about; more often than it fails."""
        name = data.draw(st.sampled_from(self.those("loading", "unloading")))
        if self.world.bodies[name].does == "loading":
            self.world.loaded(name)
        else:
            self.world.unloaded(name)

    @rule(data=st.data(), name=st.sampled_from(NAMES))
    def submit_chat(self, data: st.DataObject, name: str) -> None:
        for _ in range(data.draw(st.integers(1, 4))):
            self.world.submit(name, "chat")

    @precondition(lambda self: self.world.inside)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.world.finish(data.draw(st.sampled_from(sorted(self.world.inside))))

    @precondition(lambda self: self.world.open)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.world.finish(data.draw(st.sampled_from(sorted(self.world.open))))

    @precondition(lambda self: self.those("loading"))
    @rule(data=st.data(), less=st.integers(0, 2), seen=st.booleans())
    def loaded(self, data: st.DataObject, less: int, seen: bool) -> None:
        name = data.draw(st.sampled_from(self.those("loading")))
        body = self.world.bodies[name]
        took = {d: max(0, mib - less) for d, mib in body.target.demand.items()}
        current = self.world.targets.get(name) == body.target
        self.world.loaded(name, took if seen and current else None)

    @precondition(lambda self: self.those("loading"))
    @rule(
        data=st.data(),
        kind=st.sampled_from(["out_of_memory", "out_of_memory", "crashed", "timeout"]),
    )
    def load_failed(self, data: st.DataObject, kind: str) -> None:
        name = data.draw(st.sampled_from(self.those("loading")))
        told = "aborted" if self.world.bodies[name].aborted else kind
        self.world.load_failed(name, told)  # type: ignore[arg-type]

    @precondition(lambda self: self.those("unloading"))
    @rule(data=st.data())
    def unloaded(self, data: st.DataObject) -> None:
        self.world.unloaded(data.draw(st.sampled_from(self.those("unloading"))))

    @precondition(lambda self: self.those("ready", "asleep"))
    @rule(data=st.data())
    def died(self, data: st.DataObject) -> None:
        self.world.died(data.draw(st.sampled_from(self.those("ready", "asleep"))))

    @precondition(lambda self: self.those("ready"))
    @rule(data=st.data())
    def hung(self, data: st.DataObject) -> None:
        self.world.hung(data.draw(st.sampled_from(self.those("ready"))))

    @rule(name=st.sampled_from(NAMES), on=rarely)
    def pin(self, name: str, on: bool) -> None:
        self.world.scheduler.pin(name, on, self.world.now)

    @rule(name=st.sampled_from(NAMES), on=rarely)
    def lock(self, name: str, on: bool) -> None:
        self.world.scheduler.lock(name if on else None, self.world.now)

    @rule(name=st.sampled_from(NAMES))
    def ask_load(self, name: str) -> None:
        self.world.scheduler.ask_load(name, self.world.now)

    @rule(name=st.sampled_from(NAMES))
    def ask_unload(self, name: str) -> None:
        self.world.scheduler.ask_unload(name, self.world.now)

    @rule(data=st.data(), limits=limits, shrink=st.integers(0, 9))
    def reconfigure(self, data: st.DataObject, limits: Limits, shrink: int) -> None:
        if not data.draw(st.booleans()):
            return
        told = []
        for name in NAMES:
            change = data.draw(st.sampled_from(["keep", "keep", "keep", "change", "remove"]))
            if change == "change" or (change == "keep" and name not in self.world.targets):
                told.append(data.draw(targets(name)))
            elif change == "keep":
                told.append(self.world.targets[name])
        budget = {**BUDGET, "card0": 7} if shrink == 0 else BUDGET
        self.world.reconfigure(told, budget, limits)

    @rule(seconds=seconds)
    def wait(self, seconds: float) -> None:
        self.world.now += seconds
        self.world.tick()

    @invariant()
    def nothing_is_overcommitted_cut_lost_or_served_twice(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        # From here on nobody is refused for having waited, which would hide one that is forgotten.
        patient = replace(world.limits, queue_timeout_s=1e9)
        world.reconfigure(list(world.targets.values()), world.budget, patient)
        play(world, load_s=5.0, unload_s=2.0, stream_s=3.0)
        assert world.ended == set(world.tickets)
        assert not world.scheduler._pool.tickets, "the scheduler still knows some of them"


def profile(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


class TestHistories(Histories.TestCase):  # type: ignore[misc,valid-type]
    settings = profile(EXAMPLES, 40)
    pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]
