"""The HTTP layer under the chat model: keeps each exchange byte for byte, and refuses a stream
that ends without `[DONE]`, which is what a killed engine looks like from here."""

import ssl
import time
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache

import httpx2

DONE = b"[DONE]"
TAIL = 64


@dataclass(slots=True)
class Exchange:
    """One engine call: the request body sent and the response body received so far."""

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
        async for chunk in self._inner:
            if self._exchange is not None:
                self._exchange.response.append(chunk)
            tail = (tail + chunk)[-TAIL:]
            yield chunk
        if self._streamed and DONE not in tail:
            raise httpx2.RemoteProtocolError("the stream ended without [DONE]")

    async def aclose(self) -> None:
        await self._inner.aclose()
