"""The client's end of an answer: opened once, written to with a time limit, and ended so that a
broken answer never looks like a whole one."""

import asyncio
from collections.abc import Mapping

from aiohttp import HttpVersion11, web

from contracts.errors import VarietError
from services.gateway.front.envelope import error_answer, error_event
from services.gateway.front.routes import EVENTS

# A transport whose buffer is below this takes a write without waiting.
HIGH_WATER = 65_536


class ClientLeft(Exception):
    """Nobody reads the answer any more."""


class Outlet:
    """Of one request. `sent` counts the bytes of the answer's body."""

    def __init__(self, request: web.BaseRequest, slow_s: float) -> None:
        self._request = request
        self._slow_s = slow_s
        self.response: web.StreamResponse | None = None
        self.sent = 0

    async def open(self, headers: Mapping[str, str]) -> None:
        """Send status 200 and the headers."""
        self.response = web.StreamResponse(headers=headers)
        if self._request.version < HttpVersion11:
            # Only the connection's end can tell it where an answer without a length ends.
            self.response.force_close()
        try:
            await self.response.prepare(self._request)
        except ConnectionError as error:
            raise ClientLeft from error

    async def write(self, piece: bytes) -> None:
        """Raises ClientLeft: it is gone, or did not read for `slow_s`."""
        assert self.response is not None
        transport = self._request.transport
        if transport is None:
            raise ClientLeft
        self.sent += len(piece)
        try:
            if transport.get_write_buffer_size() + len(piece) < HIGH_WATER:
                await self.response.write(piece)
                return
            await self._wait_and_write(piece)
        except ConnectionError as error:
            raise ClientLeft from error

    async def _wait_and_write(self, piece: bytes) -> None:
        assert self.response is not None
        limit = asyncio.timeout(self._slow_s)
        try:
            async with limit:
                await self.response.write(piece)
        except TimeoutError as error:
            if not limit.expired():
                raise
            self.abort()
            raise ClientLeft from error

    def abort(self) -> None:
        """End the connection so that the client sees that the answer is cut."""
        if self._request.transport is not None:
            self._request.transport.abort()

    async def fail(self, error: VarietError, openai: bool) -> web.StreamResponse:
        """Tell an error in the way that is still open."""
        if self.response is None:
            return error_answer(error, openai)
        if self.response.headers.get("Content-Type", "").startswith(EVENTS):
            # The empty line ends an event of which the engine sent no more than its data.
            await self.write(b"\n" + error_event(error))
        else:
            self.abort()
        return self.response
