"""What the index process does: the operations of the wire on a vector store and one embedder."""

import asyncio
import logging
from collections import defaultdict
from typing import Any, Literal

import numpy as np

from contracts.errors import Unavailable, VarietError
from contracts.knowledge import (
    CollectionStats,
    DeleteOp,
    EmbedOp,
    Hit,
    IndexOp,
    IndexStats,
    RebuildOp,
    SearchOp,
    SourcesOp,
    StatsOp,
    UpsertOp,
)
from orchestrator.knowledge.embedding import Embedder
from orchestrator.knowledge.minilm import Floats
from orchestrator.knowledge.vector_store import Collection, VectorStore, check

_REBUILD_PAGE = 32
_PROBE_PAUSE = 5.0
_OPENING_S = 30.0

log = logging.getLogger("variet.index")


class IndexService:
    """Single-threaded except for embedding: what the embedded store computes holds the
    interpreter lock anyway."""

    def __init__(self, store: VectorStore, embedder: Embedder) -> None:
        self._store = store
        self._embedder = embedder
        self._writing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._dimension: int | None = None
        # What keeps the embedder from answering, as far as is known.
        self._mute: VarietError | None = None

    async def warm(self) -> None:
        """Open the store, then embed a word until the model answers."""
        try:
            await self._store.stats(_OPENING_S)
        except VarietError as error:
            log.warning("no vector store: %s", error)
        while self._dimension is None:
            if not await self._probe():
                await asyncio.sleep(_PROBE_PAUSE)

    async def watch(self) -> None:
        """Look after an embedder that failed, until cancelled."""
        while True:
            await asyncio.sleep(_PROBE_PAUSE)
            if self._mute:
                await self._probe()

    async def close(self) -> None:
        await self._embedder.close()
        await self._store.close()

    async def answer(self, op: IndexOp) -> Any:
        """The JSON-ready result of an operation. Raises VarietError."""
        match op:
            case SearchOp():
                return [hit.model_dump() for hit in await self._search(op)]
            case UpsertOp():
                return await self._upsert(op)
            case DeleteOp():
                return await self._delete(op)
            case SourcesOp():
                held = await self._store.find(op.collection)
                return await held.sources(op.prefix) if held else {}
            case EmbedOp():
                vectors = await self._embed(op.texts, bulk=len(op.texts) > 1)
                return vectors.tolist()
            case RebuildOp():
                return await self._rebuild(op.collection)
            case StatsOp():
                return (await self._stats(op.within)).model_dump()

    async def _search(self, op: SearchOp) -> list[Hit]:
        """By meaning and words; while the embedder is down, by words alone."""
        if await self._store.find(op.collection) is None:
            return []
        vector = await self._vector(op.query)
        # Found again, because it may have been rebuilt meanwhile.
        collection = await self._store.find(op.collection)
        if collection is None:
            return []
        if vector is not None:
            check(collection, self._embedder.model, len(vector))
        return await collection.search(op.query, vector, op.limit)

    async def _vector(self, query: str) -> Floats | None:
        if self._mute:
            return None
        try:
            vectors = await self._embed([query])
        except VarietError:
            return None
        return np.asarray(vectors[0])

    async def _upsert(self, op: UpsertOp) -> int:
        if not op.chunks:
            return 0
        vectors = await self._embed([chunk.text for chunk in op.chunks], bulk=True)
        dimension = vectors.shape[1]
        async with self._writing[op.collection]:
            collection = await self._store.find(op.collection)
            if collection is None:
                model = self._embedder.model
                collection = await self._store.create(op.collection, model, dimension)
            check(collection, self._embedder.model, dimension)
            await collection.upsert(op.chunks, vectors)
        return len(op.chunks)

    async def _delete(self, op: DeleteOp) -> None:
        async with self._writing[op.collection]:
            if collection := await self._store.find(op.collection):
                await collection.delete(op.source, op.keep)

    async def _rebuild(self, name: str) -> int:
        """Embed a collection's chunks anew, beside the old one, then swap. Searches go on."""
        async with self._writing[name]:
            old = await self._store.find(name)
            if old is None:
                return 0
            [probe] = await self._embed(["ready"])
            new = await self._store.begin(name, self._embedder.model, len(probe))
            count = await self._copy(old, new)
            await self._store.replace(name, new)
            return count

    async def _copy(self, old: Collection, new: Collection) -> int:
        count, offset = 0, None
        while True:
            chunks, offset = await old.page(offset, _REBUILD_PAGE)
            if chunks:
                texts = [chunk.text for chunk in chunks]
                await new.upsert(chunks, await self._embed(texts, bulk=True))
            count += len(chunks)
            if offset is None:
                return count

    async def _embed(self, texts: list[str], bulk: bool = False) -> Floats:
        try:
            vectors = await self._embedder.embed(texts, bulk)
        except VarietError as error:
            # A batch may fail for what is in it, while the model is well.
            if bulk:
                await self._probe()
            else:
                self._fell_silent(error)
            raise
        if texts:
            self._answered(vectors.shape[1])
        return vectors

    async def _probe(self) -> bool:
        try:
            await self._embed(["ready"])
        except VarietError:
            return False
        return True

    def _fell_silent(self, error: VarietError) -> None:
        if not self._mute:
            log.warning("no embeddings, searching by words alone: %s", error)
        self._mute = error

    def _answered(self, dimension: int) -> None:
        if self._mute:
            log.warning("embeddings are back, searching by meaning too")
        self._mute, self._dimension = None, dimension

    async def _stats(self, within: float) -> IndexStats:
        collections: dict[str, CollectionStats] = {}
        search: Literal["hybrid", "words", "none"] = "words" if self._mute else "hybrid"
        error = self._mute
        if self._dimension is None and error is None:
            error = Unavailable(
                "index_starting", "The index process is still starting.", "Wait a moment."
            )
        try:
            collections = await self._store.stats(within)
        except VarietError as down:
            search, error = "none", down
        return IndexStats.model_validate(
            {
                "ready": error is None,
                "search": search,
                "model": self._embedder.model,
                "dimension": self._dimension,
                "error": error.body() if error else None,
                "collections": collections,
            }
        )
