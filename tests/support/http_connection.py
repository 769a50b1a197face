"""The least of HTTP/1.1 that clients need, for test servers whose own time is measured."""

import asyncio
import json
import socket
import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """Header names are lower case."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes


class HttpConnection(asyncio.Protocol, ABC):
    """One keep-alive connection. Subclasses write an answer in `answer`, and are told in `left`
    when the client goes away during one, which also cancels `answer`."""

    def __init__(self) -> None:
        self._buffer = b""
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport

    @abstractmethod
    async def answer(self, request: HttpRequest) -> None: ...

    @abstractmethod
    def left(self) -> None: ...

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()
            self.left()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._task is None:
            self._next()

    def close(self) -> None:
        self._transport.close()

    def reset(self) -> None:
        """Send RST: the peer sees a connection that broke, not one that ended."""
        raw = self._transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def write_json(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self._transport.write(
            b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (status, len(data), data)
        )

    def write_text(self, text: str) -> None:
        data = text.encode()
        head = "HTTP/1.1 200 X\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: "
        self._transport.write(head.encode() + b"%d\r\n\r\n%b" % (len(data), data))

    def begin_stream(self) -> None:
        self._transport.write(STREAM_HEAD)

    def write_event(self, text: str) -> None:
        data = b"data: " + text.encode() + b"\n\n"
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def write_comment(self, text: str) -> None:
        data = b": " + text.encode() + b"\n\n"
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end_stream(self) -> None:
        self._transport.write(LAST_CHUNK)

    def _next(self) -> None:
        head, separator, rest = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ", 2)
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        url = urlsplit(target)
        request = HttpRequest(method, url.path, parse_qs(url.query), headers, rest[:length])
        self._task = asyncio.get_running_loop().create_task(self._serve(request))

    async def _serve(self, request: HttpRequest) -> None:
        await self.answer(request)
        self._task = None
        if self._buffer and not self._transport.is_closing():
            self._next()
