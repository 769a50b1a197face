"""The vector store on a Qdrant server, in front of a stand-in for one: see qdrant_server.py."""

import importlib.util
import json
import random
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import pytest
from qdrant_client import models

from contracts.errors import Conflict, SettingsError, StoreError, Unavailable
from contracts.knowledge import Chunk, Hit, RebuildOp, SearchOp, UpsertOp
from orchestrator.knowledge.edge import EdgeStore
from orchestrator.knowledge.embedding import RemoteEmbedder
from orchestrator.knowledge.index_service import IndexService
from orchestrator.knowledge.minilm import Floats
from orchestrator.knowledge.qdrant import server as qdrant_connection
from orchestrator.knowledge.qdrant.store import QdrantStore
from orchestrator.knowledge.supervision import IndexProcess
from orchestrator.knowledge.vector_store import VectorStore
from tests.knowledge.conftest import Launch
from tests.knowledge.embeddings_server import EmbeddingsServer
from tests.knowledge.qdrant_server import QdrantServer

CHUNK = Chunk(source="a", digest="1", part=0, start_line=1, end_line=1, text="boost")
VECTOR = np.array([1, 0, 0, 0], np.float32)


@pytest.fixture
def server() -> Iterator[QdrantServer]:
    with QdrantServer() as running:
        yield running
        assert running.violations == []


@pytest.fixture
async def store(server: QdrantServer) -> AsyncIterator[QdrantStore]:
    opened = QdrantStore(server.url)
    yield opened
    await opened.close()


@pytest.fixture
def embeddings() -> Iterator[EmbeddingsServer]:
    with EmbeddingsServer(dimension=8) as running:
        yield running


async def filled(store: VectorStore, name: str = "docs") -> None:
    collection = await store.create(name, "some-model", 4)
    await collection.upsert([CHUNK], VECTOR[None])


async def found(store: VectorStore, vector: Floats | None = VECTOR) -> list[Hit]:
    collection = await store.find("docs")
    return await collection.search("boost", vector, 3) if collection else []


def bodies(server: QdrantServer, method: str, path: str) -> list[Any]:
    return [body for verb, at, body in server.requests if verb == method and at.endswith(path)]


def test_the_stand_in_notices_what_the_server_would_not_understand() -> None:
    with QdrantServer() as server:
        for path, body in [
            ("/collections/x/points/count", {"exact": True, "precise": True}),
            ("/collections/x/points/query", {"query": {"text": 1}}),
            ("/collections/x/points/query?fast=true", {}),
            ("/collections/x/points/guess", {}),
        ]:
            request = urllib.request.Request(
                server.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            with pytest.raises(HTTPError) as refused:
                urllib.request.urlopen(request)
            refused.value.close()
        assert len(server.violations) == 4
        assert "'precise' was unexpected" in server.violations[0]


async def test_a_collection_says_what_it_was_built_with_and_indexes_text_as_code(
    server: QdrantServer, store: QdrantStore
) -> None:
    await filled(store)
    [(at, note)] = server.collections.items()
    assert note == {
        "collection": "docs",
        "model": "some-model",
        "dimension": 4,
        "state": "ready",
    }
    assert at.startswith("variet-docs.")
    assert server.aliases == {"variet-docs": at}
    indexes = {body["field_name"]: body["field_schema"] for body in bodies(server, "PUT", "/index")}
    assert indexes["text"] == {
        "type": "text",
        "tokenizer": "code",
        "lowercase": True,
        "scoring": True,
        "stopwords": "english",
        "stemmer": {"type": "snowball", "language": "english"},
    }
    assert indexes["source"] == {"type": "keyword", "prefix": True}
    assert set(indexes) == {"text", "source", "digest", "part"}


@pytest.mark.parametrize(
    ("name", "vector", "weights", "fields"),
    [
        ("docs", VECTOR, [1.0, 1.0], ["dense", "text"]),
        ("code", VECTOR, [1.0, 0.25], ["dense", "text"]),
        ("code", None, [0.25], ["text"]),
    ],
)
async def test_both_rankings_are_fused_by_the_server_with_the_weights_of_the_collection(
    server: QdrantServer,
    store: QdrantStore,
    name: str,
    vector: Floats | None,
    weights: list[float],
    fields: list[str],
) -> None:
    collection = await store.create(name, "some-model", 4)
    await collection.search("boost", vector, 5)
    [asked] = bodies(server, "POST", "/points/query")
    assert asked["query"] == {"rrf": {"k": 2, "weights": weights}}
    assert [ranking["using"] for ranking in asked["prefetch"]] == fields
    assert asked["prefetch"][-1]["query"] == {"text": "boost"}


async def test_the_server_and_the_embedded_store_rank_alike(
    store: QdrantStore, tmp_path: Path
) -> None:
    """Words of one form each, which both tokenizers take alike."""
    dice = random.Random(7)
    words = ["brix", "dorn", "falk", "gurt", "holm", "jolt", "kelp", "lux", "mond", "nimb"]
    chunks, dimension = [], 16
    for n in range(60):
        text = " ".join(dice.choices(words, k=dice.randint(3, 40)))
        source = f"s{dice.randint(0, 20)}"
        chunks.append(Chunk(source=source, digest="1", part=n, start_line=n, end_line=n, text=text))
    vectors = np.random.default_rng(7).normal(size=(60, dimension)).astype(np.float32)
    both: list[VectorStore] = [store, EdgeStore(tmp_path)]
    ranked = []
    for one in both:
        collection = await one.create("docs", "some-model", dimension)
        await collection.upsert(chunks, vectors)
        question = vectors[3] + vectors[5]
        ranked.append(
            [
                await collection.search("holm lux", question, 10),
                await collection.search("holm lux", None, 10),
            ]
        )
        assert await collection.count() == 60
        found = await collection.sources("s1")
        assert {source for source in found if not source.startswith("s1")} == set()
    await both[1].close()
    for of_server, of_edge in zip(*ranked, strict=True):
        assert len(of_server) == 10
        assert [(h.start_line, h.score) for h in of_server] == [
            (h.start_line, h.score) for h in of_edge
        ]


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
async def test_a_rebuild_broken_off_at_any_request_loses_nothing_and_leaves_nothing(
    embeddings: EmbeddingsServer, done: bool
) -> None:
    broken_off = 0
    for step in range(1, 100):
        with QdrantServer() as server:
            service = IndexService(QdrantStore(server.url), RemoteEmbedder(embeddings.url, "one"))
            await service.answer(UpsertOp(collection="docs", chunks=[CHUNK]))
            await service.close()

            service = IndexService(QdrantStore(server.url), RemoteEmbedder(embeddings.url, "two"))
            server.breaks_at = len(server.requests) + step
            server.breaks_after_doing = done
            finished = True
            try:
                await service.answer(RebuildOp(collection="docs"))
            except Unavailable:
                finished = False
            await service.close()

            server.breaks_at = None
            store = QdrantStore(server.url)
            stats = (await store.stats(30))["docs"]
            assert stats.chunks == 1
            [note] = server.collections.values()
            assert note["state"] == "ready"
            again = IndexService(store, RemoteEmbedder(embeddings.url, stats.model))
            [hit] = await again.answer(SearchOp(collection="docs", query="boost", limit=1))
            assert hit["source"] == "a"
            await again.close()
            assert server.violations == []
            if finished:
                assert (stats.model, stats.dimension) == ("two", 8)
                break
            broken_off += 1
    assert broken_off > 10


async def test_a_creation_broken_off_at_any_request_is_made_again(server: QdrantServer) -> None:
    for step in range(100):
        for name in server.collections:
            server.local.delete_collection(name)
        first = QdrantStore(server.url)
        server.breaks_at = len(server.requests) + step
        finished = True
        try:
            await filled(first)
        except Unavailable:
            finished = False
        await first.close()
        server.breaks_at = None

        second = QdrantStore(server.url)
        if await second.find("docs") is None:
            await filled(second)
        collection = await second.find("docs")
        assert collection
        await collection.upsert([CHUNK], VECTOR[None])
        assert len(await found(second)) == 1
        assert len(server.collections) == 1
        await second.close()
        if finished:
            break
    assert step > 5


async def test_a_rebuild_that_failed_is_cleared_away_by_the_next(
    server: QdrantServer, store: QdrantStore
) -> None:
    await filled(store)
    await store.begin("docs", "other", 4)
    new = await store.begin("docs", "other", 4)
    assert len(server.collections) == 2
    await store.replace("docs", new)
    assert len(server.collections) == 1


async def test_a_collection_restored_without_its_alias_is_found_under_its_name(
    server: QdrantServer, store: QdrantStore
) -> None:
    await filled(store)
    gone = models.DeleteAlias(alias_name="variet-docs")
    server.local.update_collection_aliases([models.DeleteAliasOperation(delete_alias=gone)])
    later = QdrantStore(server.url)
    assert [hit.source for hit in await found(later)] == ["a"]
    await later.close()


async def test_collections_of_others_are_left_alone(
    server: QdrantServer, store: QdrantStore
) -> None:
    vectors = models.VectorParams(size=4, distance=models.Distance.DOT)
    others = ["variet-docs", "variet-docs.backup", "notes"]
    for name in others:
        server.local.create_collection(name, vectors)
    with pytest.raises(Conflict, match="was not made by Variet"):
        await store.find("docs")
    await filled(store, "code")
    assert set(await store.stats(30)) == {"code"}
    assert set(others) < set(server.collections)


@pytest.mark.parametrize(
    ("failing", "retry_after", "said"),
    [
        (500, None, "answered 500"),
        (503, None, "answered 503"),
        (429, None, "answered 429"),
        (429, "3", "refuses for now: Service internal error"),
        (429, "soon", "refuses for now: Retry-After header value is not a valid integer"),
    ],
)
async def test_a_server_that_fails_is_told_and_works_again_when_it_does(
    server: QdrantServer, store: QdrantStore, failing: int, retry_after: str | None, said: str
) -> None:
    await filled(store)
    server.failing, server.retry_after = failing, retry_after
    with pytest.raises(Unavailable, match=f"QDRANT_URL={server.url} {said}") as down:
        await found(store)
    assert down.value.code == "vector_store_unavailable"
    with pytest.raises(Unavailable):
        await store.stats(30)
    server.failing = None
    assert len(await found(store)) == 1


async def test_a_server_that_is_down_at_the_start_is_used_as_soon_as_it_is_up(
    server: QdrantServer,
) -> None:
    first = QdrantStore(server.url)
    await filled(first)
    await first.close()
    server.stop()
    store = QdrantStore(server.url)
    with pytest.raises(Unavailable, match=f"QDRANT_URL={server.url} does not answer"):
        await found(store)
    server.start()
    assert len(await found(store)) == 1
    server.stop()
    with pytest.raises(Unavailable):
        await found(store)
    server.start()
    assert len(await found(store)) == 1
    await store.close()


async def test_a_silent_server_is_given_up(
    server: QdrantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qdrant_connection, "READ_TIMEOUT_S", 1)
    store = QdrantStore(server.url)
    await filled(store)
    server.silent = True
    with pytest.raises(Unavailable, match="did not answer in time"):
        await found(store)
    with pytest.raises(Unavailable, match=r"did not answer within 0\.2 s"):
        await store.stats(0.2)
    await store.close()


async def test_a_key_that_the_server_does_not_take_is_named() -> None:
    with QdrantServer(key="right") as server:
        wrong, right = QdrantStore(server.url, "wrong"), QdrantStore(server.url, "right")
        with pytest.raises(SettingsError) as refused:
            await found(wrong)
        assert refused.value.code == "vector_store_key"
        assert "QDRANT_API_KEY" in str(refused.value)
        assert "wrong" not in str(refused.value)
        await filled(right)
        assert len(await found(right)) == 1
        await wrong.close()
        await right.close()


@pytest.mark.parametrize("version", ["1.19.4", "0.11.0"])
async def test_a_server_without_bm25_is_refused(
    server: QdrantServer, store: QdrantStore, version: str
) -> None:
    server.version = version
    with pytest.raises(SettingsError, match=f"is Qdrant {version}; BM25 search needs 1.20"):
        await found(store)
    server.version = "1.21.0-dev"
    assert await found(store) == []


async def test_something_else_at_the_address_is_told(
    server: QdrantServer, store: QdrantStore
) -> None:
    server.version = ""
    with pytest.raises(StoreError, match=f"QDRANT_URL={server.url} answers, and not as Qdrant"):
        await found(store)


async def test_a_collection_removed_meanwhile_is_told_and_made_again_by_the_next_document(
    server: QdrantServer, store: QdrantStore, embeddings: EmbeddingsServer
) -> None:
    service = IndexService(store, RemoteEmbedder(embeddings.url, "some-model"))
    await service.answer(UpsertOp(collection="docs", chunks=[CHUNK]))
    for name in server.collections:
        server.local.delete_collection(name)
    with pytest.raises(StoreError, match=f"no longer on QDRANT_URL={server.url}") as gone:
        await service.answer(SearchOp(collection="docs", query="boost", limit=1))
    assert gone.value.code == "collection_gone"
    assert await service.answer(UpsertOp(collection="docs", chunks=[CHUNK])) == 1
    assert await service.answer(SearchOp(collection="docs", query="boost", limit=1))
    await service.close()


async def test_the_index_process_says_what_is_wrong_with_the_server_and_lives_on(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QDRANT_API_KEY", "right")
    with QdrantServer(key="right") as server:
        server.stop()
        index = launch(tmp_path, "--qdrant-url", server.url).client
        stats = await index.stats()
        assert (stats.ready, stats.search, stats.collections) == (False, "none", {})
        assert stats.error
        assert stats.error.code == "vector_store_unavailable"
        with pytest.raises(Unavailable, match="QDRANT_URL"):
            await index.search("boost")
        assert len(await index.embed(["boost"])) == 1
        server.start()
        await index.upsert("docs", [CHUNK])
        assert [hit.source for hit in await index.search("boost")] == ["a"]
        assert (await index.stats()).ready
        assert server.violations == []


def test_without_the_client_of_the_server_the_start_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError) as missing:
        IndexProcess(tmp_path, qdrant_url="http://qdrant:6333")
    assert "requirements-server.lock" in missing.value.remedy


def test_keys_are_not_among_the_arguments_of_the_process(tmp_path: Path) -> None:
    process = IndexProcess(
        tmp_path, embed_key="one", qdrant_url="http://qdrant:6333", qdrant_key="two"
    )
    assert process._command[-2:] == ["--qdrant-url", "http://qdrant:6333"]
    assert not {"one", "two"} & set(process._command)
    assert process._environment["EMBED_KEY"] == "one"
    assert process._environment["QDRANT_API_KEY"] == "two"
