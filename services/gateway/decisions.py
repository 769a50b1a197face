"""The scheduler at work: it is told what happened, and what it decides is done afterwards.

It is called on one event loop only. Its effects are noted while it is at work, and done in their
order once its call has returned: a deed that tells it something again must not find it half-way.
There is one timer, for its next deadline; nothing is polled.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from services.gateway.scheduling.scheduler import Scheduler
from services.gateway.scheduling.types import Effects, Refusal, Rest, Ticket

Answer = TypeVar("Answer")


class _Noted:
    """The scheduler's effects, to be done later by `doer`."""

    def __init__(self, doer: Effects) -> None:
        self.deeds: deque[Callable[[], None]] = deque()
        self._doer = doer

    def load(self, engine: str, attempt: int) -> None:
        self.deeds.append(partial(self._doer.load, engine, attempt))

    def abort_load(self, engine: str) -> None:
        self.deeds.append(partial(self._doer.abort_load, engine))

    def unload(self, engine: str, rest: Rest, reason: str) -> None:
        self.deeds.append(partial(self._doer.unload, engine, rest, reason))

    def grant(self, ticket: Ticket) -> None:
        self.deeds.append(partial(self._doer.grant, ticket))

    def refuse(self, ticket: Ticket, refusal: Refusal) -> None:
        self.deeds.append(partial(self._doer.refuse, ticket, refusal))


class Decisions:
    """`doer` does what the scheduler asks for; `changed` is called after each thing that it was
    told, when all is done."""

    def __init__(
        self, doer: Effects, make: Callable[[Effects], Scheduler], changed: Callable[[], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._noted = _Noted(doer)
        self.scheduler = make(self._noted)
        self._changed = changed
        self._doing = False
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def now(self) -> float:
        return self._loop.time()

    def tell(self, call: Callable[[Scheduler, float], Answer]) -> Answer:
        answer = call(self.scheduler, self.now)
        self._do()
        return answer

    def close(self) -> None:
        self._closed = True
        self._disarm()

    def _do(self) -> None:
        # Told from within a deed: the loop below, further up, does what was added.
        if self._doing:
            return
        self._doing = True
        try:
            while self._noted.deeds:
                self._noted.deeds.popleft()()
        finally:
            self._doing = False
        self._arm()
        self._changed()

    def _arm(self) -> None:
        deadline = None if self._closed else self.scheduler.next_deadline()
        if deadline is None:
            self._disarm()
        elif self._timer is None or self._timer.when() != deadline:
            self._disarm()
            self._timer = self._loop.call_at(deadline, self._ring)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        self.tell(lambda scheduler, now: scheduler.tick(now))
