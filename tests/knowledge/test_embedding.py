from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

from contracts.errors import EngineError, Unavailable
from orchestrator.knowledge import embedding
from orchestrator.knowledge.embedding import LocalEmbedder, RemoteEmbedder
from tests.knowledge.embeddings_server import EmbeddingsServer


@pytest.fixture
def server() -> Iterator[EmbeddingsServer]:
    with EmbeddingsServer(dimension=4) as server:
        yield server


@pytest.fixture
async def remote(server: EmbeddingsServer) -> AsyncIterator[RemoteEmbedder]:
    embedder = RemoteEmbedder(server.url, "some-model", "secret")
    yield embedder
    await embedder.close()


async def test_a_remote_model_gives_unit_vectors_in_the_order_of_the_texts(
    remote: RemoteEmbedder, server: EmbeddingsServer
) -> None:
    both = await remote.embed(["a", "b"])
    [second] = await remote.embed(["b"])
    np.testing.assert_allclose(both[1], second)
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1, atol=1e-6)
    body, key = server.requests[0]
    assert (body["model"], body["input"], key) == ("some-model", ["a", "b"], "Bearer secret")


async def test_many_texts_are_asked_for_in_batches(
    remote: RemoteEmbedder, server: EmbeddingsServer
) -> None:
    vectors = await remote.embed([str(n) for n in range(70)])
    assert vectors.shape == (70, 4)
    assert [len(body["input"]) for body, _ in server.requests] == [32, 32, 6]


@pytest.mark.parametrize(
    "answer", [{}, {"data": []}, {"data": [{"index": 0, "embedding": ["x"]}]}, [1], "no"]
)
async def test_an_answer_without_embeddings_is_an_error(
    remote: RemoteEmbedder, server: EmbeddingsServer, answer: Any
) -> None:
    server.answer = answer
    with pytest.raises(EngineError, match="sent no embeddings") as failed:
        await remote.embed(["a"])
    assert server.url in failed.value.message


async def test_a_failing_and_an_absent_server_are_told_apart(
    remote: RemoteEmbedder, server: EmbeddingsServer
) -> None:
    server.failing = 500
    with pytest.raises(EngineError, match="answered 500"):
        await remote.embed(["a"])
    absent = RemoteEmbedder("http://127.0.0.1:9/v1", "some-model")
    with pytest.raises(Unavailable, match="does not answer") as down:
        await absent.embed(["a"])
    assert down.value.code == "embeddings_unavailable"
    await absent.close()


async def test_bulk_work_lets_questions_go_first(
    remote: RemoteEmbedder, server: EmbeddingsServer
) -> None:
    await remote.embed(["a"])
    await remote.embed(["a"], bulk=True)
    assert server.priorities == ["chat", "background"]


@pytest.mark.parametrize("status", [429, 503])
async def test_a_server_without_room_is_one_to_wait_for(
    remote: RemoteEmbedder, server: EmbeddingsServer, status: int
) -> None:
    server.failing = status
    with pytest.raises(Unavailable, match=f"answered {status}"):
        await remote.embed(["a"], bulk=True)


async def test_a_silent_server_costs_a_question_less_time_than_a_batch(
    remote: RemoteEmbedder, server: EmbeddingsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "QUERY_TIMEOUT_S", 0.1)
    server.silent = True
    with pytest.raises(Unavailable, match="ReadTimeout"):
        await remote.embed(["a"])
    monkeypatch.setattr(embedding, "BULK_TIMEOUT_S", 0.1)
    with pytest.raises(Unavailable, match="ReadTimeout"):
        await remote.embed(["a"], bulk=True)


async def test_bulk_and_query_lanes_give_the_same_vector() -> None:
    embedder = LocalEmbedder(threads=1)
    query = await embedder.embed(["boost"])
    bulk = await embedder.embed(["boost"], bulk=True)
    np.testing.assert_array_equal(query, bulk)
    assert (await embedder.embed([])).shape == (0, 384)
    await embedder.close()
