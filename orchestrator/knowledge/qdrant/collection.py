"""One collection on a Qdrant server."""

from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar

from pydantic import BaseModel
from qdrant_client import models

from contracts.errors import StoreError
from contracts.knowledge import Chunk, Hit
from orchestrator.knowledge.minilm import Floats
from orchestrator.knowledge.qdrant.server import GONE, WRITE_TIMEOUT_S, Server
from orchestrator.knowledge.vector_store import (
    DENSE,
    DIGEST,
    PART,
    RRF_K,
    SOURCE,
    TEXT,
    candidates,
    hits,
    point_id,
    weights,
)

_PAGE = 1_000

T = TypeVar("T")


class Note(BaseModel):
    """What a collection's metadata say. `building` until it is first found under its name;
    `replaced_by` names the collection that the alias moves on to."""

    collection: str
    model: str
    dimension: int
    state: Literal["building", "ready"]
    replaced_by: str | None = None


async def make(server: Server, at: str, note: Note) -> None:
    """Make the empty collection `at`, with its indexes."""
    vectors = models.VectorParams(size=note.dimension, distance=models.Distance.COSINE)
    await server.call(
        server.client.create_collection(
            at,
            vectors_config={DENSE: vectors},
            metadata=note.model_dump(exclude_none=True),
            timeout=WRITE_TIMEOUT_S,
        )
    )
    for field, index in _payload_indexes().items():
        await server.call(
            server.client.create_payload_index(
                at, field, field_schema=index, wait=True, timeout=WRITE_TIMEOUT_S
            )
        )


class QdrantCollection:
    """One collection, under its alias or, until it is published, under its own name `at`.
    `gone()` is called when the server no longer has it."""

    def __init__(self, server: Server, at: str, note: Note, gone: Callable[[], None]) -> None:
        self.at = at
        self.name = note.collection
        self.model = note.model
        self.dimension = note.dimension
        self._server = server
        self._client = server.client
        self._gone = gone

    async def upsert(self, chunks: list[Chunk], vectors: Floats) -> None:
        points = [
            models.PointStruct(
                id=point_id(chunk), vector={DENSE: vector.tolist()}, payload=chunk.model_dump()
            )
            for chunk, vector in zip(chunks, vectors, strict=True)
        ]
        await self._ask(self._client.upsert(self.at, points, wait=True, timeout=WRITE_TIMEOUT_S))

    async def delete(self, source: str, keep: str | None = None) -> None:
        kept: list[models.Condition] | None = [_equals(DIGEST, keep)] if keep else None
        condition = models.Filter(must=[_equals(SOURCE, source)], must_not=kept)
        chosen = models.FilterSelector(filter=condition)
        await self._ask(self._client.delete(self.at, chosen, wait=True, timeout=WRITE_TIMEOUT_S))

    async def sources(self, prefix: str) -> dict[str, list[str]]:
        must: list[models.Condition] = [_equals(PART, 0)]
        if prefix:
            start = models.MatchPrefix(prefix=prefix)
            must.append(models.FieldCondition(key=SOURCE, match=start))
        found: dict[str, list[str]] = {}
        offset = None
        while True:
            records, offset = await self._ask(
                self._client.scroll(
                    self.at,
                    scroll_filter=models.Filter(must=must),
                    limit=_PAGE,
                    offset=offset,
                    with_payload=[SOURCE, DIGEST],
                )
            )
            for record in records:
                payload = record.payload or {}
                found.setdefault(payload[SOURCE], []).append(payload[DIGEST])
            if offset is None:
                return found

    async def search(self, text: str, vector: Floats | None, limit: int) -> list[Hit]:
        depth = candidates(limit)
        words = models.TextQuery(text=text)
        rankings = [models.Prefetch(query=words, using=TEXT, limit=depth)]
        weighed = weights(self.name)
        if vector is None:
            weighed = weighed[1:]
        else:
            nearest = models.NearestQuery(nearest=vector.tolist())
            rankings.insert(0, models.Prefetch(query=nearest, using=DENSE, limit=depth))
        answer = await self._ask(
            self._client.query_points(
                self.at,
                query=models.RrfQuery(rrf=models.Rrf(k=RRF_K, weights=weighed)),
                prefetch=rankings,
                limit=depth,
                with_payload=True,
            )
        )
        return hits(answer.points, limit)

    async def page(self, offset: Any, size: int) -> tuple[list[Chunk], Any]:
        records, following = await self._ask(
            self._client.scroll(self.at, limit=size, offset=offset, with_payload=True)
        )
        return [Chunk.model_validate(record.payload) for record in records], following

    async def count(self) -> int:
        return (await self._ask(self._client.count(self.at, exact=True))).count

    async def _ask(self, request: Awaitable[T]) -> T:
        try:
            return await self._server.call(request)
        except StoreError as error:
            if error.code == GONE:
                self._gone()
            raise


def _equals(field: str, value: str | int) -> models.FieldCondition:
    return models.FieldCondition(key=field, match=models.MatchValue(value=value))


def _payload_indexes() -> dict[str, models.PayloadSchemaParams]:
    return {
        SOURCE: models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, prefix=True),
        DIGEST: models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD),
        PART: models.IntegerIndexParams(
            type=models.IntegerIndexType.INTEGER, lookup=True, range=False
        ),
        TEXT: models.TextIndexParams(
            type=models.TextIndexType.TEXT,
            tokenizer=models.TokenizerType.CODE,
            lowercase=True,
            scoring=True,
            stopwords=models.Language.ENGLISH,
            stemmer=models.SnowballParams(
                type=models.Snowball.SNOWBALL, language=models.SnowballLanguage.ENGLISH
            ),
        ),
    }
