"""How long a request can wait at most: the bounds that README.md states, on random loads."""

import os
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.tiers import Priority
from services.gateway.scheduling.types import Limits, Target
from tests.services.gateway.scheduling.world import World

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]
EXAMPLES = int(os.environ.get("SCHEDULER_EXAMPLES", "60"))
LOAD_S, UNLOAD_S, LONGEST_S = 5.0, 2.0, 40.0
SWAP_S = UNLOAD_S + LOAD_S
NAMES = ("a", "b", "c", "d")
CARDS = {"card0": 10, "card1": 10}

bounded = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@dataclass(frozen=True)
class Call:
    at: float
    engine: str
    stream_s: float
    priority: Priority
    leaves_at: float | None


@dataclass(frozen=True)
class Due:
    """The moment at which a request was overdue and the oldest that waits, and how much of the
    streams was left then."""

    at: float
    rest_s: float


def targets(min_warm_s: float) -> st.SearchStrategy[list[Target]]:
    def one(name: str) -> st.SearchStrategy[Target]:
        mib = st.fixed_dictionaries(dict.fromkeys(CARDS, st.sampled_from([0, 3, 5, 8, 10])))
        return st.builds(
            Target, st.just(name), mib, st.integers(1, 3), min_warm_s=st.just(min_warm_s)
        )

    return st.tuples(*map(one, NAMES)).map(list)


def calls(*priorities: Priority, leave: bool) -> st.SearchStrategy[list[Call]]:
    one = st.builds(
        Call,
        st.integers(0, 120).map(float),
        st.sampled_from(NAMES),
        st.sampled_from([1.0, 10.0, LONGEST_S]),
        st.sampled_from(priorities),
        st.integers(0, 160).map(float) if leave else st.none(),
    )
    return st.lists(one, min_size=2, max_size=25).map(lambda told: sorted(told, key=lambda c: c.at))


class Run:
    """Plays calls to the end. `waits` is, by request, how long it went on waiting once it was the
    oldest and overdue; `rests` what was left of the streams at that moment."""

    def __init__(self, targets: list[Target], calls: list[Call], max_wait_s: float) -> None:
        limits = Limits(queue=1000, queue_timeout_s=1e9, max_wait_s=max_wait_s)
        self.world = World(targets, CARDS, limits)
        self.max_wait_s = max_wait_s
        self.calls = calls
        self.made: dict[int, Call] = {}
        self.due: dict[int, Due] = {}
        for _ in range(5000):
            if not self._step():
                break
        assert not self.world.open
        assert not self.world.inside

    def waits(self) -> dict[int, tuple[float, float]]:
        granted = self.world.granted_at
        return {id: (granted[id] - d.at, d.rest_s) for id, d in self.due.items() if id in granted}

    def _step(self) -> bool:
        coming = [*self._calls(), *self._leaves(), *self._streams(), *self._engines()]
        if (at := self.world.scheduler.next_deadline()) is not None:
            coming.append((at, 9, ""))
        if not coming:
            return False
        at, what, who = min(coming)
        self.world.now = max(self.world.now, at)
        self._let(what, who)
        self.world.check()
        self._note()
        return True

    def _calls(self) -> list[tuple[float, int, str]]:
        made = len(self.made)
        return [(self.calls[made].at, 0, "")] if made < len(self.calls) else []

    def _leaves(self) -> list[tuple[float, int, str]]:
        gone = ((self.made[id].leaves_at, str(id)) for id in self.world.open)
        return [(at, 1, id) for at, id in gone if at is not None]

    def _streams(self) -> list[tuple[float, int, str]]:
        return [(self._end(id), 2, str(id)) for id in self.world.inside]

    def _engines(self) -> list[tuple[float, int, str]]:
        bodies = self.world.bodies.items()
        loads = [(b.due + LOAD_S, 3, n) for n, b in bodies if b.does == "loading"]
        return loads + [(b.due + UNLOAD_S, 4, n) for n, b in bodies if b.does == "unloading"]

    def _let(self, what: int, who: str) -> None:
        world = self.world
        if what == 0:
            call = self.calls[len(self.made)]
            self.made[len(self.made) + 1] = call
            world.submit(call.engine, call.priority)
        elif what in (1, 2):
            world.finish(int(who))
        elif what == 3 and world.bodies[who].aborted:
            world.load_failed(who, "aborted")
        elif what == 3:
            world.loaded(who)
        elif what == 4:
            world.unloaded(who)
        else:
            world.tick()

    def _note(self) -> None:
        oldest = min(self.world.open, default=None)
        if oldest is None or oldest in self.due:
            return
        if self.world.now >= self.made[oldest].at + self.max_wait_s:
            ends = (self._end(id) - self.world.now for id in self.world.inside)
            self.due[oldest] = Due(self.world.now, max(ends, default=0.0))

    def _end(self, id: int) -> float:
        return self.world.granted_at[id] + self.made[id].stream_s


@bounded
@given(targets(0.0), calls("chat", leave=False), st.sampled_from([0.0, 10.0, 30.0]))
def test_the_oldest_overdue_request_waits_for_running_streams_and_one_swap(
    targets: list[Target], calls: list[Call], max_wait_s: float
) -> None:
    for id, (waited, rest_s) in Run(targets, calls, max_wait_s).waits().items():
        assert waited <= rest_s + SWAP_S, f"request {id}: {waited} s, streams {rest_s} s"


@bounded
@given(targets(10.0), calls("chat", "background", leave=True), st.sampled_from([0.0, 10.0, 30.0]))
def test_with_warm_times_priorities_and_clients_that_leave_one_more_load_and_its_streams(
    targets: list[Target], calls: list[Call], max_wait_s: float
) -> None:
    for id, (waited, _) in Run(targets, calls, max_wait_s).waits().items():
        assert waited <= LOAD_S + 10.0 + LONGEST_S + SWAP_S, f"request {id}: {waited} s"


@bounded
@given(
    st.lists(st.tuples(st.integers(0, 300).map(float), st.sampled_from([1.0, 10.0]))),
    st.sampled_from([20.0, 60.0]),
)
def test_one_that_waits_beside_a_busy_engine_waits_max_wait_the_streams_and_one_swap(
    busy: list[tuple[float, float]], max_wait_s: float
) -> None:
    """However many requests another engine gets, and as long as it may stay warm."""
    pair = [
        Target("busy", {"card0": 10}, concurrency=1000, min_warm_s=1e6),
        Target("other", {"card0": 10}),
    ]
    told = [Call(at, "busy", stream_s, "chat", None) for at, stream_s in sorted(busy)]
    told = sorted([*told, Call(100.0, "other", 1.0, "chat", None)], key=lambda c: c.at)
    run = Run(pair, told, max_wait_s)
    id = next(id for id, call in run.made.items() if call.engine == "other")
    assert run.world.granted_at[id] - 100.0 <= max_wait_s + 10.0 + SWAP_S
