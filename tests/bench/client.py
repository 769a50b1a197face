"""An HTTP/1.1 client of a few lines: the clients of the field cost more than what is measured."""

import asyncio
import json
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

HEADER_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds from the request's first byte: to the first token, and to the last byte.
    `first_ms` is None where the answer was not streamed or held no token."""

    total_ms: float
    first_ms: float | None
    body: bytes


class Connection:
    """One kept-alive connection; one request at a time."""

    def __init__(self, url: str, token: bytes) -> None:
        """`token` is what a piece of a stream that carries a token contains."""
        self._address = urlsplit(url)
        self._token = token

    async def __aenter__(self) -> Self:
        host, port = self._address.hostname, self._address.port
        self._reader, self._writer = await asyncio.open_connection(host, port)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def post(self, path: str, body: dict[str, Any]) -> Timing:
        """Raises RuntimeError for any status but 200."""
        content = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {self._address.netloc}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        )
        started = time.perf_counter()
        self._writer.write(head.encode() + content)
        header = (await self._reader.readuntil(HEADER_END)).lower()
        first: float | None = None
        received = b""
        if b"transfer-encoding: chunked" in header:
            while piece := await self._piece():
                received += piece
                if first is None and self._token in received:
                    first = _ms_since(started)
        else:
            length = int(header.split(b"content-length: ")[1].split(b"\r\n")[0])
            received = await self._reader.readexactly(length)
        total = _ms_since(started)
        if not header.startswith(b"http/1.1 200"):
            raise RuntimeError(f"{path}: {header.splitlines()[0]!r} {received[:500]!r}")
        return Timing(total, first, received)

    async def _piece(self) -> bytes:
        size = int(await self._reader.readline(), 16)
        piece = await self._reader.readexactly(size + 2)
        return piece[:-2]


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1_000
