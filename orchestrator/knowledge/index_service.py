"""What the index process does: the operations of the wire on collections and one embedder."""

import asyncio
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

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
from orchestrator.knowledge.collection import Collection
from orchestrator.knowledge.embedding import Embedder

_NEW = ".new"
_OLD = ".old"
_REBUILD_PAGE = 32
_PROBE_PAUSE = 5.0


class IndexService:
    """Collections under `folder`, each in a subfolder of its name. Single-threaded except for
    embedding: the store's calls hold the interpreter lock anyway."""

    def __init__(self, folder: Path, embedder: Embedder) -> None:
        self._folder = folder
        self._embedder = embedder
        self._collections: dict[str, Collection] = {}
        self._writing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._dimension: int | None = None
        self._error: VarietError | None = Unavailable(
            "index_starting", "The index process is still starting.", "Wait a moment."
        )

    async def warm(self) -> None:
        """Open the collections, then embed a word until the model answers."""
        self._mend()
        for note in sorted(self._folder.glob("*/collection.json")):
            self._collections[note.parent.name] = Collection.load(note.parent)
        while self._dimension is None:
            try:
                await self._embed(["ready"])
            except VarietError:
                await asyncio.sleep(_PROBE_PAUSE)

    async def close(self) -> None:
        await self._embedder.close()
        for collection in self._collections.values():
            collection.close()

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
                held = self._collections.get(op.collection)
                return held.sources(op.prefix) if held else {}
            case EmbedOp():
                vectors = await self._embed(op.texts, bulk=len(op.texts) > 1)
                return vectors.tolist()
            case RebuildOp():
                return await self._rebuild(op.collection)
            case StatsOp():
                return self._stats().model_dump()

    async def _search(self, op: SearchOp) -> list[Hit]:
        if op.collection not in self._collections:
            return []
        [vector] = await self._embed([op.query])
        collection = self._collections[op.collection]
        collection.check(self._embedder.model, len(vector))
        return collection.search(op.query, vector, op.limit)

    async def _upsert(self, op: UpsertOp) -> int:
        if not op.chunks:
            return 0
        vectors = await self._embed([chunk.text for chunk in op.chunks], bulk=True)
        async with self._writing[op.collection]:
            collection = self._opened(op.collection, vectors.shape[1])
            collection.check(self._embedder.model, vectors.shape[1])
            collection.upsert(op.chunks, vectors)
        return len(op.chunks)

    async def _delete(self, op: DeleteOp) -> None:
        async with self._writing[op.collection]:
            if collection := self._collections.get(op.collection):
                collection.delete(op.source, op.keep)

    async def _rebuild(self, name: str) -> int:
        """Embed a collection's chunks anew, beside the old one, then swap. Searches go on."""
        async with self._writing[name]:
            old = self._collections.get(name)
            if old is None:
                return 0
            [probe] = await self._embed(["ready"])
            folder = self._folder / f"{name}{_NEW}"
            new = Collection.create(folder, self._embedder.model, len(probe))
            count, offset = 0, None
            while True:
                chunks, offset = old.page(offset, _REBUILD_PAGE)
                if chunks:
                    texts = [chunk.text for chunk in chunks]
                    new.upsert(chunks, await self._embed(texts, bulk=True))
                count += len(chunks)
                if offset is None:
                    break
            self._swap(name, old, new)
            return count

    def _swap(self, name: str, old: Collection, new: Collection) -> None:
        folder, aside = self._folder / name, self._folder / f"{name}{_OLD}"
        old.close()
        new.close()
        folder.rename(aside)
        new.folder.rename(folder)
        shutil.rmtree(aside)
        self._collections[name] = Collection.load(folder)

    def _mend(self) -> None:
        """Finish or undo a rebuild that a crash interrupted."""
        for folder in self._folder.glob(f"*{_OLD}"):
            if folder.with_suffix("").exists():
                shutil.rmtree(folder)
            else:
                folder.rename(folder.with_suffix(""))
        for folder in self._folder.glob(f"*{_NEW}"):
            shutil.rmtree(folder)

    def _opened(self, name: str, dimension: int) -> Collection:
        if name not in self._collections:
            folder = self._folder / name
            self._collections[name] = Collection.create(folder, self._embedder.model, dimension)
        return self._collections[name]

    async def _embed(self, texts: list[str], bulk: bool = False) -> Any:
        try:
            vectors = await self._embedder.embed(texts, bulk)
        except VarietError as error:
            self._error = error
            raise
        if texts:
            self._error, self._dimension = None, vectors.shape[1]
        return vectors

    def _stats(self) -> IndexStats:
        return IndexStats.model_validate(
            {
                "ready": self._error is None,
                "model": self._embedder.model,
                "dimension": self._dimension,
                "error": self._error.body() if self._error else None,
                "collections": {
                    name: CollectionStats(
                        chunks=held.count(), model=held.model, dimension=held.dimension
                    )
                    for name, held in self._collections.items()
                },
            }
        )
