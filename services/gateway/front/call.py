"""One request to an engine, from its arrival until its last byte."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from contracts.errors import EngineTimeout, VarietError
from services.gateway.front.envelope import TooSlow
from services.gateway.front.outlet import Outlet
from services.gateway.front.record import Record
from services.gateway.front.routes import Route
from services.gateway.front.waiting import Waiting


@dataclass(slots=True, eq=False)
class Call:
    """`limit` ends it, at a time that differs by stage (`ends`, of the loop's clock); `reason` is
    what is told then. `waiting` is set when the client asked for progress."""

    request: web.BaseRequest
    route: Route
    record: Record
    outlet: Outlet
    limit: asyncio.Timeout
    reason: VarietError
    body: bytes = b""
    value: dict[str, Any] | None = field(default=None)
    waiting: Waiting | None = None
    ends: float | None = None
    interrupted: bool = False

    def allow(self, ends: float | None, reason: VarietError) -> None:
        """It has until then; None: as long as it takes."""
        # Whoever interrupted it comes first, also before the task has noticed.
        if not self.interrupted:
            self.ends, self.reason = ends, reason

    def interrupt(self, now: float, reason: VarietError | None = None) -> None:
        """End it."""
        if not self.interrupted:
            self.reason = reason or self.reason
            self.interrupted = True
            self.limit.reschedule(now)


def body_too_slow(seconds: float) -> VarietError:
    return TooSlow(
        "body_too_slow", f"The body was not whole after {seconds:g} s.", "Send it faster."
    )


def answer_too_long(seconds: float) -> VarietError:
    return EngineTimeout(
        "stream_time_limit",
        f"The answer was not whole after GATEWAY_MAX_STREAM_S={seconds:g} s.",
        "Ask for fewer tokens, or raise GATEWAY_MAX_STREAM_S.",
    )
