"""The HTTP layer under the chat model: keeps each exchange byte for byte, tells what a gateway says
of a request that waits, and refuses a stream that ends without `[DONE]`, which is what a killed
engine looks like from here.

A gateway tells it in comments of the stream, `: {"engine": ..., "stage": ...}`, which the client
libraries above drop.
"""

import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache

import httpx2
from pydantic import ValidationError

from contracts.tiers import SwapProgress

DONE = b"[DONE]"
TAIL = 64
COMMENT_LIMIT = 65_536


@dataclass(slots=True)
class Exchange:
    """One engine call: the request body sent and the response body received so far. `headers` are
    sent along. `on_progress` is told where the request stands, and again at each sign of life."""

    headers: Mapping[str, str] = field(default_factory=dict)
    on_progress: Callable[[SwapProgress], None] | None = None
    request: bytes = b""
    response: list[bytes] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)


current_exchange: ContextVar[Exchange | None] = ContextVar("current_exchange", default=None)


@cache
def tls() -> ssl.SSLContext:
    """The context of all HTTP clients; it takes 20 ms to make, for reading the certificates."""
    return ssl.create_default_context()


class RecordingTransport(httpx2.AsyncBaseTransport):
    """Wraps a transport; records into `current_exchange` of the calling task, if there is one."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        exchange = current_exchange.get()
        if exchange is not None:
            exchange.request = await request.aread()
            exchange.response.clear()
            request.headers.update(exchange.headers)
        response = await self._inner.handle_async_request(request)
        streamed = response.headers.get("content-type", "").startswith("text/event-stream")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _RecordedStream(response.stream, exchange, streamed)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _RecordedStream(httpx2.AsyncByteStream):
    def __init__(
        self, inner: httpx2.AsyncByteStream, exchange: Exchange | None, streamed: bool
    ) -> None:
        self._inner = inner
        self._exchange = exchange
        self._streamed = streamed

    async def __aiter__(self) -> AsyncIterator[bytes]:
        tail = b""
        told = self._exchange.on_progress if self._exchange else None
        comments = Comments(told) if told and self._streamed else None
        async for chunk in self._inner:
            if self._exchange is not None:
                self._exchange.response.append(chunk)
            if comments is not None and not comments.feed(chunk):
                comments = None
            tail = (tail + chunk)[-TAIL:]
            yield chunk
        if self._streamed and DONE not in tail:
            raise httpx2.RemoteProtocolError("the stream ended without [DONE]")

    async def aclose(self) -> None:
        await self._inner.aclose()


class Comments:
    """Reads the comments that stand in front of a stream's first event. While a request waits, any
    comment is a sign of life, and tells once more what was told last."""

    def __init__(self, told: Callable[[SwapProgress], None]) -> None:
        self._told = told
        self._rest = b""
        self._last: SwapProgress | None = None

    def feed(self, chunk: bytes) -> bool:
        """Take what has come. False: the first event has begun, and nothing more is to be read."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b":"):
                self._take(line[1:].strip())
            elif line.strip():
                return False
        return len(self._rest) < COMMENT_LIMIT and self._rest[:1] in (b"", b":", b"\r")

    def _take(self, text: bytes) -> None:
        try:
            self._last = SwapProgress.model_validate_json(text)
        except ValidationError:
            # An engine of its own sends comments too, while it reads a long prompt.
            if self._last is None or self._last.stage == "ready":
                return
        self._told(self._last)
