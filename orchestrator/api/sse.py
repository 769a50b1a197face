"""Server-sent events of a run."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from fastapi import Request
from fastapi.responses import StreamingResponse

from contracts.errors import BadRequest
from orchestrator.agent.log import LoggedEvent
from orchestrator.agent.runs import Runs
from orchestrator.api.errors import shown

KEEPALIVE = b": still here\n\n"
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
EVENT_ID_DIGITS = 15
_stopping: set[asyncio.Task[object]] = set()


def wants_stream(request: Request) -> bool:
    return "text/event-stream" in request.headers.get("accept", "")


def last_event_id(request: Request, after: int | None) -> int:
    """The id to go on after: the header that a browser sends when it reconnects, which is newer
    than the `?after=` of the address that it began with. Raises BadRequest."""
    text = request.headers.get("last-event-id")
    if text is None:
        return after or 0
    if not (text.isascii() and text.isdigit() and len(text) <= EVENT_ID_DIGITS):
        raise BadRequest(
            "bad_event_id", f"Last-Event-ID={shown(text)} is no event's id.", "Send a number."
        )
    return int(text)


def event_stream(
    runs: Runs, run_id: str, after: int = 0, stop_on_disconnect: bool = False
) -> StreamingResponse:
    events = watched(runs, run_id, after, stop_on_disconnect)
    return StreamingResponse(_encode(events), media_type="text/event-stream", headers=HEADERS)


async def watched(
    runs: Runs, run_id: str, after: int, stop_on_disconnect: bool
) -> AsyncGenerator[LoggedEvent | None, None]:
    """A run's events; when the reader leaves before the end, the run is stopped if asked to."""
    ended = False
    try:
        async for event in runs.follow(run_id, after):
            ended = event is not None and event.type == "end"
            yield event
    finally:
        if stop_on_disconnect and not ended:
            # A task of its own: whoever reads here is being cancelled.
            task: asyncio.Task[object] = asyncio.create_task(runs.stop(run_id))
            _stopping.add(task)
            task.add_done_callback(_stopping.discard)


async def _encode(events: AsyncGenerator[LoggedEvent | None, None]) -> AsyncIterator[bytes]:
    async with aclosing(events):
        async for event in events:
            yield KEEPALIVE if event is None else event.sse()
