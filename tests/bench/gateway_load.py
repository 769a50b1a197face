"""Asks an OpenAI-compatible server as often as it is told, and says how long each answer took.

Reads jobs as lines of JSON, `{"url", "key", "model", "stream", "chunks", "pace", "at_once",
"requests"}`, and writes a line with the figures of each: `first_ms` per request, `chunk_ms` per
chunk (from the engine's own stamp), `total_ms` per request, and `wall_s`. All in milliseconds but
the last.

`python -m tests.bench.gateway_load`
"""

import asyncio
import json
import re
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

STAMP = re.compile(rb"@(\d+\.\d{6})@")
LENGTH = re.compile(rb"content-length: *(\d+)", re.I)
END = b"0\r\n\r\n"
HEADER_END = b"\r\n\r\n"
KEPT = 40


@dataclass
class Figures:
    first_ms: list[float] = field(default_factory=list)
    chunk_ms: list[float] = field(default_factory=list)
    total_ms: list[float] = field(default_factory=list)
    wall_s: float = 0.0
    failed: int = 0


class Asking(asyncio.Protocol):
    """One kept-alive connection that asks again as soon as it has its answer."""

    def __init__(self, request: bytes, left: list[None], figures: Figures) -> None:
        self._request, self._left, self._figures = request, left, figures
        self._head = self._first = self._chunked = False
        self._buffer = self._tail = b""
        self._received = self._length = 0
        self._started = 0.0
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.over.done():
            self._figures.failed += 1
            self.over.set_result(None)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if not self._head:
            self._buffer += data
            head, found, rest = self._buffer.partition(HEADER_END)
            if not found:
                return
            self._take_head(head, len(rest))
            data = rest
        else:
            self._received += len(data)
        for stamp in STAMP.finditer(data):
            if not self._first:
                self._first = True
                self._figures.first_ms.append((now - self._started) * 1_000)
            self._figures.chunk_ms.append((now - float(stamp[1])) * 1_000)
        self._tail = (self._tail + data)[-KEPT:]
        whole = self._tail.endswith(END) if self._chunked else self._received >= self._length
        if whole:
            self._figures.total_ms.append((now - self._started) * 1_000)
            self._ask()

    def _take_head(self, head: bytes, received: int) -> None:
        self._head = True
        if not head.startswith(b"HTTP/1.1 200"):
            self._figures.failed += 1
        length = LENGTH.search(head)
        self._chunked, self._length = length is None, int(length[1]) if length else 0
        self._received = received

    def _ask(self) -> None:
        self._head = self._first = self._chunked = False
        self._buffer = self._tail = b""
        self._received = self._length = 0
        if not self._left:
            self.over.set_result(None)
            self._transport.close()
            return
        self._left.pop()
        self._started = time.perf_counter()
        self._transport.write(self._request)


async def run(job: dict[str, Any]) -> Figures:
    address = urlsplit(job["url"])
    body: dict[str, Any] = {
        "model": job["model"],
        "messages": [{"role": "user", "content": "How is it?"}],
        "max_tokens": job["chunks"],
        "seed": job["pace"],
        "stream": job["stream"],
    }
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Authorization: Bearer {job['key']}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    figures, left = Figures(), [None] * job["requests"]
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    asked = []
    for _ in range(job["at_once"]):
        _, protocol = await loop.create_connection(
            lambda: Asking(head.encode() + content, left, figures), address.hostname, address.port
        )
        asked.append(protocol.over)
        # Streams of people do not beat in time.
        await asyncio.sleep(0.001 if job["pace"] else 0)
    await asyncio.gather(*asked)
    figures.wall_s = time.perf_counter() - started
    return figures


async def main() -> None:
    print(json.dumps({"url": ""}), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        figures = await run(json.loads(line))
        print(json.dumps(asdict(figures)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
