"""Answers on their way from an engine to a client."""

import asyncio
from functools import partial
from io import BytesIO

import orjson
import pytest

from tests.services.gateway.front.byte_engine import EVENTS, WHOLE, Got, Pipe
from tests.services.gateway.front.conftest import USER, Front, until
from tests.services.gateway.front.memory_gate import KEY


async def test_a_whole_answer_comes_as_the_engine_wrote_it(front: Front) -> None:
    async with front.chat() as answer:
        assert answer.status == 200
        assert await answer.read() == WHOLE
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["X-Variet-Model"] == "small"
        assert int(answer.headers["X-Variet-Queue-Ms"]) >= 0
    assert front.gate.total == 0


async def test_a_stream_comes_as_the_engine_wrote_it(front: Front) -> None:
    async with front.chat(stream=True) as answer:
        assert answer.status == 200
        assert await answer.read() == b"".join(EVENTS)
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert answer.headers["X-Variet-Model"] == "small"
    assert front.gate.total == 0


async def test_the_body_reaches_the_engine_byte_by_byte(front: Front) -> None:
    body = b'{ "model" : "fast" ,"unknown":[1.50, "\\u00e9"],\n"messages":[] }'
    url = front.url("/v1/chat/completions")
    headers = {"Content-Type": "application/json"}
    async with front.http.post(url, data=body, headers=headers) as answer:
        assert answer.status == 200
    assert front.engine.got[0].body == body
    assert front.engine.got[0].path == "/v1/chat/completions"


@pytest.mark.parametrize("size", [1, 3, 7, 50])
async def test_pieces_cut_anywhere_come_out_whole(front: Front, size: int) -> None:
    told = b"".join(EVENTS)
    pieces = [told[at : at + size] for at in range(0, len(told), size)]

    async def answer(_: Got, pipe: Pipe) -> None:
        await pipe.stream(*pieces)

    front.engine.answer = answer
    async with front.chat(stream=True) as passed:
        assert await passed.read() == told


async def test_each_event_is_passed_on_before_the_next_one_comes(front: Front) -> None:
    steps: list[bytes] = []

    async def answer(_: Got, pipe: Pipe) -> None:
        await pipe.open()
        for event in EVENTS:
            await pipe.piece(event)
            # The next one is written only after the client has this one.
            await until(partial(steps.__contains__, event))
        await pipe.end()

    front.engine.answer = answer
    async with front.chat(stream=True) as passed:
        for event in EVENTS:
            steps.append(await passed.content.readexactly(len(event)))
    assert tuple(steps) == EVENTS


async def test_the_engine_gets_our_headers_and_none_of_the_clients(front: Front) -> None:
    sent = {
        "Cookie": "session=1",
        "X-Conversation-Id": "c1",
        "Forwarded": "for=1.2.3.4",
        "X-Forwarded-For": "1.2.3.4",
        "X-Request-Id": "trace-1",
        "Origin": "http://evil.example",
        "OpenAI-Organization": "o",
        "Accept": "application/json",
        "TE": "trailers",
    }
    async with front.chat(headers=sent) as answer:
        assert answer.headers["X-Request-Id"] == "trace-1"
    got = front.engine.got[0].headers
    assert got.pop("host").startswith("127.0.0.1:")
    assert int(got.pop("content-length")) > 0
    assert got == {
        "content-type": "application/json",
        "accept": "application/json",
        "authorization": f"Bearer {KEY}",
        "x-request-id": "trace-1",
    }


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "æ", "a/b"])
async def test_a_request_id_that_is_none_is_replaced(front: Front, given: str) -> None:
    async with front.chat(headers={"X-Request-Id": given}) as answer:
        made = answer.headers["X-Request-Id"]
    assert made != given
    assert made.isalnum()
    assert front.engine.got[0].headers["x-request-id"] == made


async def test_headers_of_the_engine_stay_with_it(front: Front) -> None:
    extra = (
        "Server: llama.cpp\r\nSet-Cookie: a=b\r\nAccess-Control-Allow-Origin: *\r\n"
        "Keep-Alive: timeout=5\r\nX-Powered-By: engine\r\nCache-Control: no-store\r\n"
    )

    async def answer(got: Got, pipe: Pipe) -> None:
        if got.json.get("stream"):
            await pipe.open(extra=extra)
            await pipe.piece(EVENTS[-1])
            await pipe.end()
        else:
            await pipe.whole(WHOLE, extra=extra)

    front.engine.answer = answer
    for stream in (False, True):
        async with front.chat(stream=stream) as passed:
            names = {name.lower() for name in passed.headers}
            await passed.read()
            assert passed.headers["Server"] == "variet"
            assert passed.headers["Cache-Control"] == "no-store"
        assert names - {"content-length", "transfer-encoding", "date", "server"} == {
            "content-type",
            "cache-control",
            "x-request-id",
            "x-variet-model",
            "x-variet-queue-ms",
        }


async def test_an_event_stream_of_another_route_needs_no_done(front: Front) -> None:
    async def answer(_: Got, pipe: Pipe) -> None:
        await pipe.open("audio/mpeg")
        for _n in range(5):
            await pipe.piece(b"\x00" * 30_000)
        await pipe.end()

    front.engine.answer = answer
    body = {"model": "mouth", "input": "Hello", "voice": "a"}
    async with front.http.post(front.url("/v1/audio/speech"), json=body) as passed:
        assert passed.status == 200
        assert passed.headers["Content-Type"] == "audio/mpeg"
        assert len(await passed.read()) == 150_000


async def test_large_bodies_pass_in_both_directions(front: Front) -> None:
    async def answer(got: Got, pipe: Pipe) -> None:
        await pipe.whole(orjson.dumps({"data": "x" * 3_000_000, "seen": len(got.body)}))

    front.engine.answer = answer
    body = BytesIO(orjson.dumps({"model": "words", "input": ["y" * 5_000_000]}))
    async with front.http.post(front.url("/v1/embeddings"), data=body) as passed:
        told = orjson.loads(await passed.read())
    assert told["seen"] > 5_000_000
    assert len(told["data"]) == 3_000_000


@pytest.mark.parametrize("asked", ["keep-alive", "close"])
async def test_a_client_of_http_1_0_sees_where_a_stream_ends(front: Front, asked: str) -> None:
    body = b'{"model": "fast", "stream": true, "messages": []}'
    head = f"Connection: {asked}\r\nAuthorization: Bearer {USER}\r\nContent-Length: {len(body)}"
    reader, writer = await asyncio.open_connection("127.0.0.1", front.site.port)
    writer.write(f"POST /v1/chat/completions HTTP/1.0\r\n{head}\r\n\r\n".encode() + body)
    async with asyncio.timeout(30):
        told = await reader.read()
    writer.close()
    assert told.endswith(b"".join(EVENTS))
