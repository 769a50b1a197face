"""The vector store on a Qdrant server.

The collection `docs` is there the alias `variet-docs` of a collection `variet-docs.<hex>`, whose
metadata say what it was built with. A rebuild fills a second one, then moves the alias, which the
server does in one step. The ranking is asked for as of `edge`: exact below the server's
`indexing_threshold`, by its HNSW graph above it, where the dense ranking may miss a passage.

Only collections that carry our note are ever changed or removed. One orchestrator at a time may
use them: at its start a second one would undo the first one's running rebuild.
"""

import asyncio
import logging
import secrets
import warnings
from collections.abc import Awaitable
from typing import Any, Literal, TypeVar

import httpx
from pydantic import BaseModel, ValidationError
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.http.exceptions import (
    ApiException,
    ResponseHandlingException,
    UnexpectedResponse,
)

from contracts.errors import Conflict, SettingsError, StoreError, Unavailable, VarietError
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

# The first with BM25 of its own and the code tokenizer.
OLDEST = (1, 20)
PREFIX = "variet-"
GONE = "collection_gone"
READ_TIMEOUT_S = 8
WRITE_TIMEOUT_S = 60
# Who asks for the state of the index waits 1.5 s.
PROBE_TIMEOUT_S = 1.0

_PAGE = 1_000

log = logging.getLogger("variet.index")
T = TypeVar("T")


class Note(BaseModel):
    """What a collection's metadata say. `building` until it is first found under its name;
    `replaced_by` names the collection that the alias moves on to."""

    collection: str
    model: str
    dimension: int
    state: Literal["building", "ready"]
    replaced_by: str | None = None


class QdrantStore:
    """Collections on the server at `url`."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self._url = url
        with warnings.catch_warnings():
            # In a Compose network http is what there is; elsewhere the URL says https.
            warnings.filterwarnings("ignore", message="Api key is used with an insecure connection")
            self._client = AsyncQdrantClient(
                url=url,
                # Else the client adds :6333 to a URL that means its scheme's port.
                port=None,
                api_key=key,
                timeout=READ_TIMEOUT_S,
                check_compatibility=False,
                limits=httpx.Limits(max_connections=16, max_keepalive_connections=4),
            )
        self._found: dict[str, QdrantCollection] = {}
        self._opening = asyncio.Lock()
        self._opened = False

    async def find(self, name: str) -> Collection | None:
        await self._open()
        if name not in self._found:
            note = await self._note(_alias(name))
            if note is None:
                return None
            self._found[name] = self._collection(_alias(name), note)
        return self._found[name]

    async def create(self, name: str, model: str, dimension: int) -> Collection:
        await self._open()
        physical, note = await self._make(name, model, dimension)
        await self._publish(name, physical)
        self._found[name] = self._collection(_alias(name), note)
        return self._found[name]

    async def begin(self, name: str, model: str, dimension: int) -> Collection:
        await self._open()
        physical, note = await self._make(name, model, dimension)
        return self._collection(physical, note)

    async def replace(self, name: str, new: Collection) -> None:
        assert isinstance(new, QdrantCollection)
        old = (await self._aliases()).get(_alias(name))
        if old:
            await self._annotate(old, replaced_by=new.at)
        await self._publish(name, new.at)
        self._found.pop(name, None)
        if old:
            await self.call(self._client.delete_collection(old, timeout=WRITE_TIMEOUT_S))

    async def stats(self) -> dict[str, CollectionStats]:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                return await self._stats()
        except TimeoutError as error:
            raise self._silent(PROBE_TIMEOUT_S) from error

    async def close(self) -> None:
        await self._client.close()

    def forget(self, name: str) -> None:
        """It is to be looked for again."""
        self._found.pop(name, None)

    async def call(self, request: Awaitable[T]) -> T:
        """The server's answer. Raises VarietError, with the code GONE when it answers 404."""
        try:
            return await request
        except ApiException as error:
            raise self._failure(error) from error

    async def _stats(self) -> dict[str, CollectionStats]:
        await self._open()
        names = [alias.removeprefix(PREFIX) for alias in await self._aliases()]
        # Anew: someone may have restored or removed one.
        self._found.clear()
        stats = {}
        for name in names:
            if held := await self.find(name):
                stats[name] = CollectionStats(
                    chunks=await held.count(), model=held.model, dimension=held.dimension
                )
        return stats

    async def _open(self) -> None:
        """Once: look whether the server can do what is asked of it, and mend."""
        async with self._opening:
            if self._opened:
                return
            version = (await self.call(self._client.info())).version
            if _release(version) < OLDEST:
                raise SettingsError(
                    "vector_store_too_old",
                    f"QDRANT_URL={self._url} is Qdrant {version}; BM25 search needs"
                    f" {'.'.join(map(str, OLDEST))}.",
                    "Upgrade the server, one minor version at a time.",
                )
            await self._mend()
            self._opened = True

    async def _mend(self) -> None:
        """Finish or undo what a crash interrupted."""
        aliases = await self._aliases()
        listed = await self.call(self._client.get_collections())
        for physical in sorted(item.name for item in listed.collections):
            if not physical.startswith(PREFIX):
                continue
            note = await self._note(physical)
            if note is None:
                continue
            current = aliases.get(_alias(note.collection))
            if current == physical:
                if note.state == "building":
                    await self._annotate(physical, state="ready")
            elif note.state == "building" or (current and note.replaced_by == current):
                log.warning("removing %s, which a crash left behind", physical)
                await self.call(self._client.delete_collection(physical, timeout=WRITE_TIMEOUT_S))
            elif current is None:
                # A snapshot does not hold the alias.
                log.warning("taking %s for the collection %s", physical, note.collection)
                await self._publish(note.collection, physical)
                aliases[_alias(note.collection)] = physical
            else:
                log.warning("%s is not used: %s is %s", physical, _alias(note.collection), current)

    async def _make(self, name: str, model: str, dimension: int) -> tuple[str, Note]:
        physical = f"{_alias(name)}.{secrets.token_hex(4)}"
        note = Note(collection=name, model=model, dimension=dimension, state="building")
        vectors = models.VectorParams(size=dimension, distance=models.Distance.COSINE)
        await self.call(
            self._client.create_collection(
                physical,
                vectors_config={DENSE: vectors},
                metadata=note.model_dump(exclude_none=True),
                timeout=WRITE_TIMEOUT_S,
            )
        )
        for field, index in _payload_indexes().items():
            await self.call(
                self._client.create_payload_index(
                    physical, field, field_schema=index, wait=True, timeout=WRITE_TIMEOUT_S
                )
            )
        return physical, note

    async def _publish(self, name: str, physical: str) -> None:
        """Let the name mean this collection from now on."""
        alias = _alias(name)
        move: list[models.AliasOperations] = []
        if alias in await self._aliases():
            gone = models.DeleteAlias(alias_name=alias)
            move.append(models.DeleteAliasOperation(delete_alias=gone))
        made = models.CreateAlias(collection_name=physical, alias_name=alias)
        move.append(models.CreateAliasOperation(create_alias=made))
        await self.call(self._client.update_collection_aliases(move, timeout=WRITE_TIMEOUT_S))
        await self._annotate(physical, state="ready")

    async def _annotate(self, physical: str, **changed: str) -> None:
        await self.call(
            self._client.update_collection(physical, metadata=changed, timeout=WRITE_TIMEOUT_S)
        )

    async def _aliases(self) -> dict[str, str]:
        """Ours, with the collections that they mean."""
        listed = await self.call(self._client.get_aliases())
        return {
            item.alias_name: item.collection_name
            for item in listed.aliases
            if item.alias_name.startswith(PREFIX)
        }

    async def _note(self, at: str) -> Note | None:
        """What a collection or the one that an alias means was built with; None: there is none.
        Raises Conflict for one that is not ours under a name that is."""
        try:
            info = await self.call(self._client.get_collection(at))
        except StoreError as error:
            if error.code != GONE:
                raise
            return None
        try:
            return Note.model_validate(info.config.metadata or {})
        except ValidationError:
            pass
        if "." in at:
            return None
        raise Conflict(
            "foreign_collection",
            f"The collection {at} on QDRANT_URL={self._url} was not made by Variet.",
            "Rename it: names that start with variet- are Variet's.",
        )

    def _collection(self, at: str, note: Note) -> "QdrantCollection":
        return QdrantCollection(self, self._client, at, note)

    def _failure(self, error: ApiException) -> VarietError:
        url = self._url
        if isinstance(error, ResponseHandlingException):
            if isinstance(error.source, httpx.TimeoutException):
                return self._silent(None)
            why = f"{type(error.source).__name__} {error.source}".splitlines()[0].strip()
            return _down(f"QDRANT_URL={url} does not answer: {why}.")
        if not isinstance(error, UnexpectedResponse):
            return _down(f"QDRANT_URL={url} refuses for now: {error}.")
        if error.status_code in (401, 403):
            return SettingsError(
                "vector_store_key",
                f"QDRANT_URL={url} answers {error.status_code}: it does not take QDRANT_API_KEY.",
                "Set QDRANT_API_KEY to the server's QDRANT__SERVICE__API_KEY.",
            )
        said = error.content.decode(errors="replace")[:200]
        if error.status_code == 404:
            return StoreError(
                GONE,
                f"A collection is no longer on QDRANT_URL={url}: {said}",
                "Restore it, or run `variet ingest PATH` for each of its folders again.",
            )
        message = f"QDRANT_URL={url} answered {error.status_code}: {said}"
        if (error.status_code or 500) >= 500 or error.status_code == 429:
            return _down(message)
        return StoreError("vector_store_refused", message, "See the server's log.")

    def _silent(self, seconds: float | None) -> Unavailable:
        within = f" within {seconds:g} s" if seconds else " in time"
        return _down(f"QDRANT_URL={self._url} did not answer{within}.")


class QdrantCollection:
    """One collection, under its alias or, until it is published, under its own name."""

    def __init__(self, store: QdrantStore, client: AsyncQdrantClient, at: str, note: Note) -> None:
        self.at = at
        self.name = note.collection
        self.model = note.model
        self.dimension = note.dimension
        self._store = store
        self._client = client

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
            return await self._store.call(request)
        except StoreError as error:
            if error.code == GONE:
                self._store.forget(self.name)
            raise


def _alias(name: str) -> str:
    return f"{PREFIX}{name}"


def _equals(field: str, value: str | int) -> models.FieldCondition:
    return models.FieldCondition(key=field, match=models.MatchValue(value=value))


def _release(version: str) -> tuple[int, ...]:
    numbers = version.split("-")[0].split(".")[:2]
    return tuple(int(number) for number in numbers if number.isdigit())


def _down(message: str) -> Unavailable:
    return Unavailable(
        "vector_store_unavailable",
        message,
        "Start the Qdrant server, or unset QDRANT_URL to keep the index in STATE_DIR/index.",
    )


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
