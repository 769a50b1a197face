"""Long random walks: as the random histories, but longer, and so many that rare orders come up.

SCHEDULER_WALKS sets how many; the nightly target takes many more. A failure names its seed.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from services.gateway.scheduling.types import Limits, Target
from tests.services.gateway.scheduling.world import World, play

WALKS = int(os.environ.get("SCHEDULER_WALKS", "150"))
STEPS = 150
NAMES = ("a", "b", "c", "d", "e")
DEVICES = ("card0", "card1", "ram")
BUDGET = {"card0": 10, "card1": 10, "ram": 15}


class Walk:
    """One history of `random`'s. Whatever is under way goes on more often than it fails."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.world = World([self._target(n) for n in NAMES], BUDGET, self._limits())
        self.steps: dict[Callable[[], None], int] = {
            self.submit: 30,
            self.go_on: 30,
            self.end: 20,
            self.wait: 15,
            self.leave: 8,
            self.fail: 3,
            self.die: 2,
            self.hang: 1,
            self.order: 6,
            self.reconfigure: 1,
        }

    def run(self) -> None:
        steps, weights = list(self.steps), list(self.steps.values())
        for step in self.random.choices(steps, weights, k=STEPS):
            step()
            self.world.check()
        self.end_well()

    def end_well(self) -> None:
        """From here on nobody is refused for having waited, which would hide one forgotten."""
        world = self.world
        patient = replace(world.limits, queue_timeout_s=1e9)
        world.reconfigure(list(world.targets.values()), world.budget, patient)
        play(world, load_s=5.0, unload_s=2.0, stream_s=3.0)
        assert world.ended == set(world.tickets)
        assert not world.scheduler._pool.tickets, "the scheduler still knows some of them"

    def submit(self) -> None:
        priority = self.random.choice(("chat", "chat", "background"))
        self.world.submit(self.random.choice(NAMES), priority)  # type: ignore[arg-type]

    def go_on(self) -> None:
        for name in self._some("loading", "unloading"):
            body = self.world.bodies[name]
            if body.does == "unloading":
                self.world.unloaded(name)
            elif body.aborted and self._rarely(0.7):
                self.world.load_failed(name, "aborted")
            else:
                current = self.world.targets.get(name) == body.target
                less = {d: max(0, m - self.random.randrange(2)) for d, m in body.holds.items()}
                self.world.loaded(name, less if current and self._rarely(0.3) else None)

    def end(self) -> None:
        if self.world.inside:
            self.world.finish(self.random.choice(sorted(self.world.inside)))

    def leave(self) -> None:
        if self.world.open:
            self.world.finish(self.random.choice(sorted(self.world.open)))

    def fail(self) -> None:
        for name in self._some("loading"):
            kind = self.random.choice(("out_of_memory", "crashed"))
            told = "aborted" if self.world.bodies[name].aborted else kind
            self.world.load_failed(name, told)  # type: ignore[arg-type]

    def die(self) -> None:
        for name in self._some("ready", "asleep"):
            self.world.died(name)

    def hang(self) -> None:
        for name in self._some("ready"):
            self.world.hung(name)

    def order(self) -> None:
        name, now, scheduler = self.random.choice(NAMES), self.world.now, self.world.scheduler
        what = self.random.randrange(4)
        if what == 0:
            scheduler.pin(name, self._rarely(0.2), now)
        elif what == 1:
            scheduler.lock(name if self._rarely(0.2) else None, now)
        elif what == 2:
            scheduler.ask_load(name, now)
        else:
            scheduler.ask_unload(name, now)

    def reconfigure(self) -> None:
        kept = [n for n in NAMES if not self._rarely(0.2)]
        known = self.world.targets
        told = [self._target(n) if n not in known or self._rarely(0.3) else known[n] for n in kept]
        self.world.reconfigure(told, BUDGET, self._limits())

    def wait(self) -> None:
        """To the next deadline, or not so far."""
        at = self.world.scheduler.next_deadline()
        step = self.random.choice((0.0, 1.0, 10.0))
        self.world.now = at if at is not None and self._rarely(0.5) else self.world.now + step
        self.world.tick()

    def _some(self, *states: str) -> list[str]:
        """One engine in one of these states, if there is any."""
        those = [n for n, body in self.world.bodies.items() if body.does in states]
        return [self.random.choice(those)] if those else []

    def _rarely(self, share: float) -> bool:
        return self.random.random() < share

    def _target(self, name: str) -> Target:
        demand = {d: self.random.choice((0, 0, 3, 4, 6, 9)) for d in DEVICES}
        asleep = {"card0": min(1, demand["card0"]), "ram": self.random.randint(1, 6)}
        return Target(
            name,
            demand,
            concurrency=self.random.randint(1, 3),
            asleep=asleep if self._rarely(0.5) else None,
            pinned=self._rarely(0.03),
            preload=self._rarely(0.1),
            ttl_s=30.0 if self._rarely(0.3) else None,
            min_warm_s=10.0 if self._rarely(0.3) else 0.0,
        )

    def _limits(self) -> Limits:
        random = self.random
        return Limits(
            queue=random.choice((3, 50)),
            queue_timeout_s=random.choice((100.0, 600.0)),
            max_wait_s=random.choice((0.0, 20.0, 60.0)),
            retry_s=10.0,
        )


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_every_request_of_every_walk_ends_once_and_nothing_is_overcommitted_or_cut() -> None:
    for seed in range(WALKS):
        try:
            Walk(Random(seed)).run()
        except AssertionError as error:
            raise AssertionError(f"walk {seed}") from error
