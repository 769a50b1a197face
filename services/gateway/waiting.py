"""The requests that are not let in yet, and what their clients are told meanwhile."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

from contracts.tiers import Priority, SwapProgress
from services.gateway.gate import OnProgress, Upstream
from services.gateway.scheduling.types import Ticket


@dataclass(slots=True)
class Waiting:
    """A request that waits. `told` is what its client was told last; `since`: the loop's clock."""

    ticket: Ticket
    granted: asyncio.Future[Upstream]
    since: float
    request_id: str
    on_progress: OnProgress | None
    told: SwapProgress | None = None

    def tell(self, progress: SwapProgress) -> None:
        if self.on_progress is not None and progress != self.told:
            self.told = progress
            self.on_progress(progress)


class WaitingRoom:
    """By ticket. A request is in it from its arrival until it is let in, refused, or gone."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ids = count(1)
        self._here: dict[int, Waiting] = {}

    def __len__(self) -> int:
        return len(self._here)

    def admit(
        self, engine: str, priority: Priority, request_id: str, on_progress: OnProgress | None
    ) -> Waiting:
        waiting = Waiting(
            Ticket(next(self._ids), engine, priority),
            self._loop.create_future(),
            self._loop.time(),
            request_id,
            on_progress,
        )
        self._here[waiting.ticket.id] = waiting
        return waiting

    def leave(self, ticket_id: int) -> Waiting | None:
        return self._here.pop(ticket_id, None)

    def watchers(self) -> Iterator[Waiting]:
        """Those whose clients want to know where they stand."""
        return (one for one in list(self._here.values()) if one.on_progress is not None)


class Coalesced:
    """Calls `then` once, soon, however often it is asked to in between."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._then = then
        self._due = False

    def __call__(self) -> None:
        if not self._due:
            self._due = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._due = False
        self._then()
