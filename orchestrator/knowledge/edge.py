"""The embedded vector store: one folder per collection, each a Qdrant Edge shard and a note of
what it was built with.

The shard's searches are exact (no HNSW graph is ever built: at 200,000 chunks a search still
takes 24 ms, while building the graph would hold the interpreter lock for minutes). Its calls
are synchronous and hold that lock, which is why a process of its own owns it. An update is in
the write-ahead log when the call returns.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from qdrant_edge import (
    CountRequest,
    Distance,
    EdgeConfig,
    EdgeShard,
    EdgeVectorParams,
    FieldCondition,
    Filter,
    Fusion,
    IntegerIndexParams,
    KeywordIndexParams,
    Language,
    MatchPrefix,
    MatchValue,
    PayloadSelector,
    Point,
    Prefetch,
    Query,
    QueryRequest,
    ScrollRequest,
    SnowballLanguage,
    SnowballParams,
    TextIndexParams,
    TextQuery,
    TokenizerType,
    UpdateOperation,
)

from contracts.knowledge import Chunk, CollectionStats, Hit
from orchestrator.knowledge.minilm import Floats
from orchestrator.knowledge.vector_store import (
    DENSE,
    DIGEST,
    PART,
    RRF_K,
    SOURCE,
    TEXT,
    Collection,
    candidates,
    hits,
    point_id,
    weights,
)

_PAGE = 1_000
_META = "collection.json"
_NEW = ".new"
_OLD = ".old"


class EdgeStore:
    """Collections under `folder`, each in a subfolder of its name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, EdgeCollection] | None = None

    async def find(self, name: str) -> Collection | None:
        return self._opened().get(name)

    async def create(self, name: str, model: str, dimension: int) -> Collection:
        opened = self._opened()
        opened[name] = EdgeCollection.create(self._folder / name, name, model, dimension)
        return opened[name]

    async def begin(self, name: str, model: str, dimension: int) -> Collection:
        return EdgeCollection.create(self._folder / f"{name}{_NEW}", name, model, dimension)

    async def replace(self, name: str, new: Collection) -> None:
        assert isinstance(new, EdgeCollection)
        opened = self._opened()
        opened[name].close()
        new.close()
        folder, aside = self._folder / name, self._folder / f"{name}{_OLD}"
        folder.rename(aside)
        new.folder.rename(folder)
        shutil.rmtree(aside)
        opened[name] = EdgeCollection.load(folder)

    async def stats(self, within: float) -> dict[str, CollectionStats]:
        return {
            name: CollectionStats(
                chunks=await held.count(), model=held.model, dimension=held.dimension
            )
            for name, held in self._opened().items()
        }

    async def close(self) -> None:
        for collection in (self._open or {}).values():
            collection.close()

    def _opened(self) -> "dict[str, EdgeCollection]":
        if self._open is None:
            self._mend()
            notes = sorted(self._folder.glob(f"*/{_META}"))
            self._open = {note.parent.name: EdgeCollection.load(note.parent) for note in notes}
        return self._open

    def _mend(self) -> None:
        """Finish or undo a rebuild that a crash interrupted."""
        for folder in self._folder.glob(f"*{_OLD}"):
            if folder.with_suffix("").exists():
                shutil.rmtree(folder)
            else:
                folder.rename(folder.with_suffix(""))
        for folder in self._folder.glob(f"*{_NEW}"):
            shutil.rmtree(folder)


class EdgeCollection:
    """One folder's chunks."""

    def __init__(
        self, folder: Path, name: str, shard: EdgeShard, model: str, dimension: int
    ) -> None:
        self.folder = folder
        self.name = name
        self.model = model
        self.dimension = dimension
        self._shard = shard

    @classmethod
    def create(cls, folder: Path, name: str, model: str, dimension: int) -> "EdgeCollection":
        """Make an empty collection in a new folder. The note is written last: a folder without
        one is an unfinished creation and is made again."""
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        vectors = EdgeVectorParams(size=dimension, distance=Distance.Cosine)
        shard = EdgeShard.create(str(folder / "shard"), EdgeConfig(vectors={DENSE: vectors}))
        for field, index in _payload_indexes().items():
            shard.update(UpdateOperation.create_field_index(field, index))
        shard.flush()
        unfinished = folder / f"{_META}.new"
        unfinished.write_text(json.dumps({"model": model, "dimension": dimension}), "utf-8")
        unfinished.rename(folder / _META)
        return cls(folder, name, shard, model, dimension)

    @classmethod
    def load(cls, folder: Path) -> "EdgeCollection":
        note = json.loads((folder / _META).read_text(encoding="utf-8"))
        shard = EdgeShard.load(str(folder / "shard"))
        return cls(folder, folder.name, shard, note["model"], note["dimension"])

    async def upsert(self, chunks: list[Chunk], vectors: Floats) -> None:
        points = [
            Point(point_id(chunk), {DENSE: vector.tolist()}, chunk.model_dump())
            for chunk, vector in zip(chunks, vectors, strict=True)
        ]
        self._shard.update(UpdateOperation.upsert_points(points))

    async def delete(self, source: str, keep: str | None = None) -> None:
        kept: list[Any] | None = None
        if keep:
            kept = [FieldCondition(DIGEST, match=MatchValue(keep))]
        condition = Filter(must=[FieldCondition(SOURCE, match=MatchValue(source))], must_not=kept)
        self._shard.update(UpdateOperation.delete_points_by_filter(condition))

    async def sources(self, prefix: str) -> dict[str, list[str]]:
        must: list[Any] = [FieldCondition(PART, match=MatchValue(0))]
        if prefix:
            must.append(FieldCondition(SOURCE, match=MatchPrefix(prefix)))
        found: dict[str, list[str]] = {}
        offset = None
        while True:
            records, offset = self._shard.scroll(
                ScrollRequest(
                    offset=offset,
                    limit=_PAGE,
                    filter=Filter(must=must),
                    with_payload=PayloadSelector.Include([SOURCE, DIGEST]),
                )
            )
            for record in records:
                payload = record.payload or {}
                found.setdefault(payload[SOURCE], []).append(payload[DIGEST])
            if offset is None:
                return found

    async def search(self, text: str, vector: Floats | None, limit: int) -> list[Hit]:
        depth = candidates(limit)
        rankings = [Prefetch(limit=depth, query=TextQuery(TEXT, text))]
        weighed = weights(self.name)
        if vector is None:
            weighed = weighed[1:]
        else:
            nearest = Query.Nearest(vector.tolist(), using=DENSE)
            rankings.insert(0, Prefetch(limit=depth, query=nearest))
        # The package's type stubs leave out that Rrf is a Fusion.
        fusion: Any = Fusion.Rrf(k=RRF_K, weights=weighed)
        request = QueryRequest(limit=depth, query=fusion, prefetches=rankings, with_payload=True)
        return hits(self._shard.query(request), limit)

    async def page(self, offset: Any, size: int) -> tuple[list[Chunk], Any]:
        records, following = self._shard.scroll(
            ScrollRequest(offset=offset, limit=size, with_payload=True)
        )
        return [Chunk.model_validate(record.payload) for record in records], following

    async def count(self) -> int:
        return self._shard.count(CountRequest(exact=True))

    def close(self) -> None:
        self._shard.flush()
        self._shard.close()


def _payload_indexes() -> dict[str, Any]:
    return {
        SOURCE: KeywordIndexParams(prefix=True),
        DIGEST: KeywordIndexParams(),
        PART: IntegerIndexParams(lookup=True, range=False),
        TEXT: TextIndexParams(
            tokenizer=TokenizerType.Code,
            lowercase=True,
            scoring=True,
            stopwords=Language.English,
            stemmer=SnowballParams(SnowballLanguage.English),
        ),
    }
