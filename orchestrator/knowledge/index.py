"""The index as the rest of the orchestrator sees it, and its client over the Unix socket."""

import asyncio
import time
from pathlib import Path
from typing import Any, Protocol

from contracts.errors import Unavailable, VarietError
from contracts.knowledge import (
    Chunk,
    DeleteOp,
    EmbedOp,
    Hit,
    IndexAnswer,
    IndexOp,
    IndexRequest,
    IndexStats,
    RebuildOp,
    SearchOp,
    SourcesOp,
    StatsOp,
    UpsertOp,
)

PROCESS_DOWN = "index_unavailable"
STATS_LIMIT_S = 10.0

_LINE_LIMIT = 64 * 1024 * 1024
_FIRST_PAUSE = 0.02
_KINDS = {kind.__name__: kind for kind in VarietError.__subclasses__()}


class Index(Protocol):
    """Every operation may be repeated. Each raises Unavailable when the index is down, Conflict
    when a collection was built with another embedding model."""

    async def upsert(self, collection: str, chunks: list[Chunk]) -> int:
        """Embed and store chunks; durable against a crash of the process once it returns."""
        ...

    async def delete(self, collection: str, source: str, keep: str | None = None) -> None:
        """Remove a source, or only its versions (digests) other than `keep`."""
        ...

    async def sources(self, collection: str, prefix: str = "") -> dict[str, list[str]]:
        """Names of the sources that start with `prefix`, with their complete digests."""
        ...

    async def search(self, query: str, limit: int = 5, collection: str = "docs") -> list[Hit]:
        """The best passages, best first. An unknown collection has none."""
        ...

    async def embed(self, texts: list[str]) -> list[list[float]]:
        """Unit vectors of texts."""
        ...

    async def stats(self, within: float = STATS_LIMIT_S) -> IndexStats:
        """Its state; a vector store that has not answered `within` seconds counts as down."""
        ...

    async def rebuild(self, collection: str) -> int:
        """Embed a whole collection anew with the model of now; the number of chunks."""
        ...


class IndexClient:
    """The index process's client. A connection per call, so there is nothing to reconnect: while
    the process restarts, a call tries again for `patience` seconds, then says that it is down."""

    def __init__(self, socket: Path, patience: float = 2.0) -> None:
        self._socket = socket
        self._patience = patience

    async def upsert(self, collection: str, chunks: list[Chunk]) -> int:
        return int(await self._call(UpsertOp(collection=collection, chunks=chunks), 300))

    async def delete(self, collection: str, source: str, keep: str | None = None) -> None:
        await self._call(DeleteOp(collection=collection, source=source, keep=keep), 60)

    async def sources(self, collection: str, prefix: str = "") -> dict[str, list[str]]:
        result = await self._call(SourcesOp(collection=collection, prefix=prefix), 60, again=True)
        return {str(name): list(digests) for name, digests in result.items()}

    async def search(self, query: str, limit: int = 5, collection: str = "docs") -> list[Hit]:
        op = SearchOp(collection=collection, query=query, limit=limit)
        found = await self._call(op, 15, again=True)
        return [Hit.model_validate(hit) for hit in found]

    async def embed(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = await self._call(EmbedOp(texts=texts), 300, again=True)
        return vectors

    async def stats(self, within: float = STATS_LIMIT_S) -> IndexStats:
        found = await self._call(StatsOp(within=within), within + 5, again=True)
        return IndexStats.model_validate(found)

    async def rebuild(self, collection: str) -> int:
        return int(await self._call(RebuildOp(collection=collection), None))

    async def _call(self, op: IndexOp, limit_s: float | None, again: bool = False) -> Any:
        try:
            async with asyncio.timeout(limit_s):
                line = await self._exchange(op, again)
        except TimeoutError as error:
            raise self._down(f"no answer to {op.op} within {limit_s} s") from error
        except OSError as error:
            raise self._down(str(error)) from error
        answer = IndexAnswer.model_validate_json(line)
        if answer.error is None:
            return answer.result
        raise _KINDS.get(answer.kind or "", VarietError)(**answer.error.model_dump())

    async def _exchange(self, op: IndexOp, again: bool) -> bytes:
        """One request, one answer. `again`: once more if the process ends meanwhile; not for
        writes, so that a document that kills the process counts against its job."""
        try:
            reader, writer = await self._connect()
            try:
                writer.write(IndexRequest(op).model_dump_json().encode() + b"\n")
                await writer.drain()
                line = await reader.readline()
            finally:
                writer.close()
            if not line.endswith(b"\n"):
                raise ConnectionResetError("it ended before it had answered")
        except ConnectionError:
            if not again:
                raise
            return await self._exchange(op, again=False)
        return line

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        deadline = time.monotonic() + self._patience
        pause = _FIRST_PAUSE
        while True:
            try:
                return await asyncio.open_unix_connection(self._socket, limit=_LINE_LIMIT)
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() + pause > deadline:
                    raise
            await asyncio.sleep(pause)
            pause *= 2

    def _down(self, why: str) -> Unavailable:
        return Unavailable(
            PROCESS_DOWN,
            f"The index process does not answer: {why}.",
            "It is restarted by itself; try again, or run `variet doctor`.",
        )
