"""The event log of one run: written by the run's task, read by any number of followers."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from contracts.errors import VarietError
from contracts.events import EventType
from orchestrator.store.interface import Store
from orchestrator.store.records import EventBlock

FLUSH_INTERVAL_S = 0.25
KEEPALIVE_S = 15.0
# After a crash, events that were sent but not yet stored are lost. Ids leap over them, so that a
# client that saw one of them does not take a new event for an old one.
RECOVERY_GAP = 100_000

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An event, already encoded: `data` is JSON."""

    id: int
    type: EventType
    data: bytes

    def sse(self) -> bytes:
        return b"id: %d\nevent: %s\ndata: %s\n\n" % (self.id, self.type.encode(), self.data)


class RunLog:
    """Numbered events of a run. Tokens reach followers at once and the store in blocks; whatever
    a later step builds on is stored with it, in one step (`store_with`). Unless it is `paced`,
    nothing is stored before that."""

    def __init__(self, store: Store, run_id: str, last_id: int = 0) -> None:
        self._store = store
        self._run_id = run_id
        self._events: list[LoggedEvent] = []
        self._end: LoggedEvent | None = None
        self._stored = 0
        self._last_id = last_id
        self._changed = asyncio.Event()
        self._storing = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None
        self.paced = False
        self.closed = False

    def emit(self, kind: EventType, data: dict[str, Any]) -> None:
        """Number an event and show it. What comes after the end is dropped."""
        if self.closed or self._end is not None:
            return
        self._events.append(self._numbered(kind, data))
        self._wake()
        if self.paced and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(FLUSH_INTERVAL_S, self._flush_soon)

    def end(self, data: dict[str, Any]) -> None:
        """Number the last event. It is stored with the next step, but nobody is shown it before
        `close`: who reads it may rely on the run's status."""
        self._end = self._numbered("end", data)

    async def store_with(self, save: Callable[[EventBlock | None], Awaitable[T]]) -> T:
        """Call `save` with the events that are not stored yet. If it raises, they stay so."""
        async with self._storing:
            self._stop_timer()
            fresh = self._events[self._stored :]
            if self._end is not None:
                fresh.append(self._end)
            result = await save(_block(fresh))
            self._stored += len(fresh)
            return result

    async def flush(self) -> None:
        """Store all events emitted so far."""

        async def save(block: EventBlock | None) -> None:
            if block is not None:
                await self._store.append_events(self._run_id, block)

        await self.store_with(save)

    def withdraw_end(self) -> None:
        """The end was not stored: it is none yet."""
        self._end = None

    def close(self) -> None:
        """The run rests, has ended or is handed over: no event follows in this log."""
        self._stop_timer()
        if self._end is not None:
            self._events.append(self._end)
            self._end = None
        self.closed = True
        self._wake()

    async def follow(self, after: int = 0) -> AsyncIterator[LoggedEvent | None]:
        """Events with an id above `after`, past ones from the store, until the log closes. None
        says that nothing happened for KEEPALIVE_S: a stream then proves that it is alive."""
        if not self._events or after < self._events[0].id - 1:
            for event in await stored_events(self._store, self._run_id, after):
                if self._events and event.id >= self._events[0].id:
                    break
                yield event
                after = event.id
        position = 0
        while True:
            changed = self._changed
            while position < len(self._events):
                event = self._events[position]
                position += 1
                if event.id > after:
                    yield event
            if position < len(self._events):
                continue
            if self.closed:
                return
            try:
                async with asyncio.timeout(KEEPALIVE_S):
                    await changed.wait()
            except TimeoutError:
                yield None

    def _numbered(self, kind: EventType, data: dict[str, Any]) -> LoggedEvent:
        self._last_id += 1
        return LoggedEvent(self._last_id, kind, orjson.dumps(data))

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _flush_soon(self) -> None:
        self._timer = None
        self._flushing = asyncio.ensure_future(self._try_flush())

    async def _try_flush(self) -> None:
        try:
            await self.flush()
        except VarietError as error:
            # The events stay; the run's next step stores them, or fails and says so.
            log.warning("events of %s are not stored yet: %s", self._run_id, error)


def _block(events: Sequence[LoggedEvent]) -> EventBlock | None:
    if not events:
        return None
    bodies = [{"id": e.id, "type": e.type, "data": orjson.Fragment(e.data)} for e in events]
    return EventBlock(events[0].id, events[-1].id, bodies)


async def stored_events(store: Store, run_id: str, after: int) -> list[LoggedEvent]:
    return [
        LoggedEvent(event["id"], event["type"], orjson.dumps(event["data"]))
        for event in await store.events(run_id, after)
    ]
