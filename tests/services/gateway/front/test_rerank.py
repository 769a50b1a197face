"""Reranking in its two dialects, before either engine."""

from typing import Any

import orjson
import pytest

from tests.services.gateway.front.byte_engine import Got, Pipe
from tests.services.gateway.front.conftest import Front, a_front
from tests.services.gateway.front.memory_gate import MemoryGate, known

DOCUMENTS = ["a cat", {"text": "a dog"}, "a car"]
TOLD = [{"index": 2, "score": 0.9}, {"index": 0, "score": 0.5}, {"index": 1, "score": 0.1}]


async def tei(_: Got, pipe: Pipe) -> None:
    await pipe.whole(orjson.dumps(TOLD))


async def ask(front: Front, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    async with front.http.post(front.url(path), json=body) as answer:
        return answer.status, orjson.loads(await answer.read())


def before_tei() -> Any:
    return a_front(gate=MemoryGate(names=known("order-tei")))


async def test_documents_are_translated_for_tei_and_back() -> None:
    async with before_tei() as front:
        front.engine.answer = tei
        body = {"model": "order-tei", "query": "pets", "documents": DOCUMENTS}
        status, answer = await ask(front, "/v1/rerank", body)
        assert status == 200
        got = front.engine.got[0]
        assert got.path == "/rerank"
        assert got.json == {
            "query": "pets",
            "texts": ["a cat", "a dog", "a car"],
            "return_text": False,
        }
        assert answer["model"] == "order-tei"
        assert answer["results"] == [
            {"index": 2, "relevance_score": 0.9},
            {"index": 0, "relevance_score": 0.5},
            {"index": 1, "relevance_score": 0.1},
        ]


async def test_the_best_documents_come_with_their_text_where_asked() -> None:
    async with before_tei() as front:
        front.engine.answer = tei
        more = {"top_n": 2, "return_documents": True}
        body = {"model": "order-tei", "query": "pets", "documents": DOCUMENTS, **more}
        _, answer = await ask(front, "/v1/rerank", body)
        assert answer["results"] == [
            {"index": 2, "relevance_score": 0.9, "document": {"text": "a car"}},
            {"index": 0, "relevance_score": 0.5, "document": {"text": "a cat"}},
        ]


async def test_teis_own_words_pass_unchanged_and_need_no_model() -> None:
    async with before_tei() as front:
        front.engine.answer = tei
        body = {"query": "pets", "texts": ["a cat", "a dog", "a car"]}
        assert await ask(front, "/rerank", body) == (200, TOLD)
        assert front.engine.got[0].json == body


async def test_llama_server_gets_either_as_it_is(front: Front) -> None:
    async def answer(got: Got, pipe: Pipe) -> None:
        await pipe.whole(b'{"path":"' + got.path.encode() + b'"}')

    front.engine.answer = answer
    ours = {"model": "order", "query": "pets", "documents": DOCUMENTS, "top_n": 1}
    assert await ask(front, "/v1/rerank", ours) == (200, {"path": "/v1/rerank"})
    theirs = {"query": "pets", "texts": ["a cat"]}
    assert await ask(front, "/rerank", theirs) == (200, {"path": "/rerank"})
    assert [got.json for got in front.engine.got] == [ours, theirs]


@pytest.mark.parametrize(
    "wrong",
    [
        {"query": 1},
        {"query": None},
        {"documents": []},
        {"documents": "text"},
        {"documents": [1]},
        {"documents": [{"title": "x"}]},
        {"top_n": 0},
        {"top_n": "2"},
        {"top_n": True},
    ],
)
async def test_a_wrong_request_is_named_and_reaches_no_engine(wrong: dict[str, Any]) -> None:
    async with before_tei() as front:
        body = {"model": "order-tei", "query": "pets", "documents": DOCUMENTS, **wrong}
        status, answer = await ask(front, "/v1/rerank", body)
        assert status == 400
        assert next(iter(wrong)) in answer["error"]["message"]
        assert front.engine.got == []
        assert front.gate.total == 0


@pytest.mark.parametrize(
    "told", [b"{}", b"[1]", b"nothing", b'[{"index":3,"score":1}]', b'[{"index":0,"score":null}]']
)
async def test_an_answer_that_is_none_of_teis_is_a_502(told: bytes) -> None:
    async def answer(_: Got, pipe: Pipe) -> None:
        await pipe.whole(told)

    async with before_tei() as front:
        front.engine.answer = answer
        body = {"model": "order-tei", "query": "pets", "documents": DOCUMENTS}
        assert (await ask(front, "/v1/rerank", body))[0] == 502
