"""What the scheduler knows of one engine."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from services.gateway.scheduling.amounts import larger, minus
from services.gateway.scheduling.line import Line, Waiter
from services.gateway.scheduling.types import Demand, EngineView, Failure, Rest, Target

State = Literal["stopped", "loading", "ready", "draining", "unloading", "asleep"]
NOTHING: dict[str, int] = {}
# An engine that dies so often within so many seconds, without an answer in between, has failed.
DEATHS = 3
DEATHS_WITHIN_S = 60.0
# A request that ended so shortly before a death was cut by it: its end is told first.
CUT_WITHIN_S = 1.0
# An engine that had memory for less context only is so long not tried with all of it.
SHORT_S = 600.0


@dataclass(slots=True, eq=False)
class Record:
    """One engine. `held` is what it may hold of each device now, whatever its target says by now;
    `asleep` is what its last sleep holds. `seen` replaces the target's demand. `leave` is why what
    runs has to go, although nobody needs its room. `awaits` are engines whose memory has to be free
    before it is tried again. Until `short_until` it is started with the smaller context at once.
    `answered_at` is when the first request since its load ended."""

    target: Target
    state: State = "stopped"
    since: float = 0.0
    held: Demand = field(default_factory=dict)
    seen: Demand | None = None
    pinned: bool = False
    removed: bool = False
    line: Line = field(default_factory=Line)
    asked: Waiter | None = None
    granted: dict[int, Waiter] = field(default_factory=dict)
    rest: Rest = "stopped"
    asleep: Demand = field(default_factory=dict)
    aborting: bool = False
    attempt: int = 1
    short_until: float | None = None
    awaits: frozenset[str] = frozenset()
    leave: Literal["asked", "reload"] | None = None
    ready_at: float = 0.0
    used_at: float = 0.0
    pace_s: float = 1.0
    failure: Failure | None = None
    failed_until: float | None = None
    deaths: tuple[float, ...] = ()
    answered_at: float | None = None

    @property
    def name(self) -> str:
        return self.target.name

    @property
    def demand(self) -> Demand:
        return self.target.demand if self.seen is None else self.seen

    @property
    def wanted(self) -> bool:
        """Somebody waits for it."""
        return self.asked is not None or len(self.line) > 0

    @property
    def lacking(self) -> bool:
        """What runs of it, if any, is not what those who wait for it will get."""
        if self.state in ("stopped", "asleep", "unloading"):
            return True
        return self.leave is not None or self.aborting

    @property
    def idle(self) -> bool:
        return self.state == "ready" and not self.granted and not self.line

    @property
    def warm_at(self) -> float:
        return self.ready_at + self.target.min_warm_s

    @property
    def expires_at(self) -> float | None:
        """When it is unloaded for being idle."""
        if not self.target.ttl_s or self.pinned or not self.idle:
            return None
        return self.used_at + self.target.ttl_s

    @property
    def kept(self) -> Demand:
        """What it holds once it has come to rest."""
        if self.leave is not None:
            return NOTHING
        resting = self.rest if self.state == "unloading" else self.state
        return self.asleep if resting == "asleep" else NOTHING

    @property
    def need(self) -> dict[str, int]:
        """What its load takes beyond what it holds at rest."""
        return minus(larger(self.demand, self.kept), self.kept)

    @property
    def serves_chat(self) -> bool:
        return bool(self.line.chat) or any(
            w.ticket.priority == "chat" for w in self.granted.values()
        )

    def waiters(self) -> Iterator[Waiter]:
        """The oldest of each kind that waits for it."""
        yield from self.line.heads()
        if self.asked is not None:
            yield self.asked

    def head(self, now: float, max_wait_s: float) -> Waiter | None:
        """Who of those is next."""
        return min(self.waiters(), key=lambda w: w.rank(now, max_wait_s), default=None)

    def enter(self, state: State, now: float) -> None:
        self.state = state
        self.since = now

    def short(self, now: float) -> bool:
        """Whether its load is one with a smaller context."""
        return self.attempt > 1 or (self.short_until is not None and now < self.short_until)

    def stop(self, now: float) -> None:
        """Nothing of it is left. Requests that it still had end by themselves."""
        self.enter("stopped", now)
        self.held = NOTHING
        self.granted = {}
        self.aborting = False
        self.leave = None

    def die(self, failure: Failure, now: float) -> bool:
        """Remember that it died; True: too often."""
        self.failure = failure
        if self.answered_at is not None and now - self.answered_at > CUT_WITHIN_S:
            self.deaths = ()
        self.deaths = (*(t for t in self.deaths if now - t < DEATHS_WITHIN_S), now)
        return len(self.deaths) >= DEATHS

    def view(self) -> EngineView:
        idle = self.idle
        return EngineView(
            target=replace(self.target, demand=self.demand, pinned=self.pinned),
            state=self.state,
            in_flight=len(self.granted),
            queued=len(self.line),
            since=self.since,
            idle_since=self.used_at if idle else None,
            unloads_at=self.expires_at,
            reserved=dict(self.held),
            failure=self.failure,
        )
