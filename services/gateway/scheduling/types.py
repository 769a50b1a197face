"""The scheduler's words: what it is told, and what it asks for. Times are seconds of one clock that
never goes back; memory is whole MiB by device (`card0`, `card1`, ... and `ram`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from contracts.errors import ErrorBody
from contracts.tiers import Priority

Demand = Mapping[str, int]
Rest = Literal["stopped", "asleep"]
FailureKind = Literal["out_of_memory", "crashed", "timeout", "refused", "aborted"]


@dataclass(frozen=True, slots=True)
class Target:
    """An engine, as far as the scheduler is concerned. `concurrency` requests are let in at once.
    `asleep` is what it holds while it sleeps; None: it cannot, and is stopped instead. `ttl_s` None
    or 0: it is never unloaded for being idle. `fingerprint` changes with whatever it is started
    with: a new configuration restarts those whose fingerprint differs; those without one, where
    demand, sleep or concurrency differ."""

    name: str
    demand: Demand
    concurrency: int = 1
    asleep: Demand | None = None
    pinned: bool = False
    preload: bool = False
    ttl_s: float | None = None
    min_warm_s: float = 0.0
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """`queue` waiting requests per engine; one that waits `queue_timeout_s` is refused. After
    `max_wait_s` a request counts as overdue: its engine is loaded next, and busy ones are drained
    for it. A failed engine is not tried again for `retry_s`."""

    queue: int = 64
    queue_timeout_s: float = 600.0
    max_wait_s: float = 120.0
    retry_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request for an engine. `id` is unique among those that are here."""

    id: int
    engine: str
    priority: Priority = "chat"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an engine did not come up, or died."""

    kind: FailureKind
    error: ErrorBody


@dataclass(frozen=True, slots=True)
class Refusal:
    """`status` is that of HTTP; `retry_after_s` None: it would be refused again."""

    status: int
    error: ErrorBody
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a waiting request stands: `position` counts from 1 within its engine's queue."""

    stage: Literal["queued", "draining", "loading"]
    position: int


@dataclass(frozen=True, slots=True)
class EngineView:
    """What can be seen of an engine; `reserved` is by device, as it counts now."""

    target: Target
    state: Literal["stopped", "loading", "ready", "draining", "unloading", "asleep"]
    in_flight: int
    queued: int
    since: float
    idle_since: float | None
    unloads_at: float | None
    reserved: Demand = field(default_factory=dict)
    failure: Failure | None = None


class Effects(Protocol):
    """What the scheduler has done. Each call returns at once; what it began is told later by one
    of `loaded`, `load_failed`, `unloaded`. No call may lead back into the scheduler before it
    returns."""

    def load(self, engine: str, attempt: int) -> None:
        """Start it, or wake it. `attempt` 2: memory was short, now or lately; take a smaller
        context."""

    def abort_load(self, engine: str) -> None:
        """End a load that nobody waits for; `load_failed` with kind `aborted` follows, or `loaded`
        if it was ready first."""

    def unload(self, engine: str, rest: Rest, reason: str) -> None:
        """Stop it or send it to sleep; nobody uses it. `unloaded` follows when its memory is free.
        `reason`: evicted, idle, asked, memory, reload, hung."""

    def grant(self, ticket: Ticket) -> None:
        """The request may go to its engine; `finish` follows, sooner or later."""

    def refuse(self, ticket: Ticket, refusal: Refusal) -> None:
        """The request is over."""
