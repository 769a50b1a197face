"""An engine of which a test decides every byte. What it says is by script, no model's doing."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self

import orjson


@dataclass
class Got:
    """A request as the engine saw it; header names in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


class Pipe:
    """The engine's end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def whole(
        self, body: bytes, status: int = 200, kind: str = "application/json", extra: str = ""
    ) -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        await self.raw((head + extra + "\r\n").encode() + body)

    async def open(self, kind: str = "text/event-stream", extra: str = "") -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n"
        await self.raw((head + extra + "\r\n").encode())

    async def piece(self, data: bytes) -> None:
        await self.raw(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    async def end(self) -> None:
        await self.raw(b"0\r\n\r\n")

    async def stream(self, *pieces: bytes) -> None:
        await self.open()
        for piece in pieces:
            await self.piece(piece)
        await self.end()

    def die(self) -> None:
        """Reset the connection."""
        self._writer.transport.abort()

    def close(self) -> None:
        self._writer.close()

    async def client_left(self) -> None:
        """Returns when the other side has closed its end."""
        try:
            while await self._reader.read(65_536):
                pass
        except ConnectionError:
            pass


Answer = Callable[[Got, Pipe], Awaitable[None]]


async def hello(got: Got, pipe: Pipe) -> None:
    """What it answers unless a test says otherwise."""
    if b'"stream":true' in got.body.replace(b" ", b""):
        await pipe.stream(*EVENTS)
    else:
        await pipe.whole(WHOLE)


WHOLE = orjson.dumps(
    {
        "choices": [{"message": {"role": "assistant", "content": "Hello"}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        "timings": {"prompt_n": 7, "predicted_n": 3, "predicted_per_second": 41.5},
    }
)
EVENTS = (
    b'data: {"choices":[{"delta":{"content":"Hel"}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"lo"}}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2},'
    b'"timings":{"predicted_n":2,"predicted_per_second":41.5}}\n\n',
    b"data: [DONE]\n\n",
)


@dataclass
class ByteEngine:
    """`url` is without /v1. `got` holds its requests, oldest first."""

    answer: Answer = hello
    got: list[Got] = field(default_factory=list)
    port: int = 0
    connections: int = 0
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while got := await self._read(reader):
                self.got.append(got)
                await self.answer(got, Pipe(reader, writer))
                if writer.is_closing():
                    return
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _read(self, reader: asyncio.StreamReader) -> Got | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        pairs = (line.split(": ", 1) for line in lines)
        headers = {name.lower(): value for name, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        return Got(first.split(" ")[1], headers, body)
