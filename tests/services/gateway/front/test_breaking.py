"""Engines that die, before they answer or in the middle of it: never a silent end."""

import asyncio
import socket
from typing import Any

import aiohttp
import orjson
import pytest

from services.gateway.front.limits import Limits
from tests.services.gateway.front.byte_engine import EVENTS, WHOLE, Got, Pipe
from tests.services.gateway.front.conftest import Front, a_front, until


def told_error(body: bytes) -> Any:
    """The error event that a stream ends with."""
    assert b"[DONE]" not in body
    last = body.strip().split(b"\n\n")[-1]
    return orjson.loads(last.strip().removeprefix(b"data: "))["error"]


def data_events(body: bytes) -> list[Any]:
    """All data events as a client parses them; fails on one that is cut."""
    events = [event.strip() for event in body.split(b"\n\n") if event.strip()]
    return [orjson.loads(e.removeprefix(b"data: ")) for e in events if e.startswith(b"data: {")]


@pytest.mark.parametrize("end", ["reset", "closed", "ended without [DONE]"])
async def test_a_stream_that_breaks_off_ends_with_an_error(front: Front, end: str) -> None:
    async def answer(_: Got, pipe: Pipe) -> None:
        await pipe.open()
        await pipe.piece(EVENTS[0])
        await until(lambda: len(seen) > 0)
        if end == "reset":
            pipe.die()
        elif end == "closed":
            pipe.close()
        else:
            await pipe.end()

    seen: list[bytes] = []
    front.engine.answer = answer
    async with front.chat(stream=True) as passed:
        seen.append(await passed.content.readexactly(len(EVENTS[0])))
        rest = await passed.read()
    assert told_error(rest)["code"] == "engine_broke_off"
    assert told_error(rest)["status"] == 502
    assert front.gate.total == 0
    assert front.figure("requests_total", model="small", route="chat", status="502") == 1
    # Once bytes are sent, the request is not made again.
    assert len(front.engine.got) == 1


async def test_half_an_event_is_not_passed_on_before_the_error(front: Front) -> None:
    async def answer(_: Got, pipe: Pipe) -> None:
        await pipe.open()
        await pipe.piece(EVENTS[0] + EVENTS[1][:20])
        await pipe.end()

    front.engine.answer = answer
    async with front.chat(stream=True) as passed:
        events = data_events(await passed.read())
    assert [list(event) for event in events] == [["choices"], ["error"]]


async def test_an_event_whose_empty_line_is_missing_is_one_before_the_error(front: Front) -> None:
    async def answer(_: Got, pipe: Pipe) -> None:
        await pipe.open()
        await pipe.piece(EVENTS[0][:-1])
        await pipe.end()

    front.engine.answer = answer
    async with front.chat(stream=True) as passed:
        events = data_events(await passed.read())
    assert [list(event) for event in events] == [["choices"], ["error"]]


async def test_an_error_that_the_engine_tells_itself_is_not_told_twice(front: Front) -> None:
    own = b'data: {"error":{"code":500,"message":"compute error","type":"server_error"}}\n\n'

    async def answer(_: Got, pipe: Pipe) -> None:
        await pipe.stream(EVENTS[0], own)

    front.engine.answer = answer
    async with front.chat(stream=True) as passed:
        assert await passed.read() == EVENTS[0] + own
    assert front.figure("requests_total", model="small", route="chat", status="502") == 1


async def test_a_stream_that_said_done_is_whole_even_if_its_connection_breaks(
    front: Front,
) -> None:
    async def answer(_: Got, pipe: Pipe) -> None:
        await pipe.open()
        for event in EVENTS:
            await pipe.piece(event)
        pipe.close()

    front.engine.answer = answer
    async with front.chat(stream=True) as passed:
        assert await passed.read() == b"".join(EVENTS)


async def test_a_dead_engine_is_entered_once_more(front: Front) -> None:
    """Nothing was sent, so the client need not know."""

    async def answer(_: Got, pipe: Pipe) -> None:
        if len(front.engine.got) == 1:
            pipe.die()
        else:
            await pipe.whole(WHOLE)

    front.engine.answer = answer
    async with front.chat() as passed:
        assert passed.status == 200
        assert await passed.read() == WHOLE
    assert len(front.gate.entered) == 2
    assert front.gate.total == 0


async def test_waiting_for_its_next_start_does_not_count_as_answering() -> None:
    async with a_front(Limits(retry_pause=0.01), gateway_max_stream_s=0.3) as front:

        async def answer(_: Got, pipe: Pipe) -> None:
            if len(front.engine.got) == 1:
                front.gate.closed = True
                pipe.die()
            else:
                await pipe.whole(WHOLE)

        front.engine.answer = answer
        asking = asyncio.create_task(front.chat().__aenter__())
        await until(lambda: len(front.gate.entered) == 2)
        await asyncio.sleep(0.8)
        front.gate.open()
        assert (await asking).status == 200


async def test_an_engine_that_dies_twice_is_a_502(front: Front) -> None:
    async def answer(_: Got, pipe: Pipe) -> None:
        pipe.die()

    front.engine.answer = answer
    async with front.chat(stream=True) as passed:
        assert passed.status == 502
        error = (await passed.json())["error"]
    assert error["code"] == "engine_gone"
    assert error["type"] == "server_error"
    assert len(front.gate.entered) == 2
    assert front.gate.total == 0


async def test_a_refused_connection_is_a_502_without_addresses(front: Front) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        front.gate.url = f"http://127.0.0.1:{port}"
        async with front.chat() as passed:
            assert passed.status == 502
            body = await passed.text()
    assert str(port) not in body
    assert "127.0.0.1" not in body


@pytest.mark.parametrize("length", ["long", "unknown"])
async def test_a_whole_answer_that_is_cut_is_never_taken_for_one(front: Front, length: str) -> None:
    async def answer(_: Got, pipe: Pipe) -> None:
        if length == "long":
            await pipe.raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
            await pipe.raw(b"Content-Length: 1000\r\n\r\n" + WHOLE)
        else:
            await pipe.open("application/json")
            await pipe.piece(WHOLE)
            await until(lambda: front.figure("requests_total") == 0)
        pipe.close()

    front.engine.answer = answer
    if length == "long":
        async with front.chat() as passed:
            assert passed.status == 502
            assert (await passed.json())["error"]["code"] == "engine_broke_off"
    else:
        with pytest.raises(aiohttp.ClientError):
            async with front.chat() as passed:
                await passed.read()
    assert front.gate.total == 0


async def test_an_answer_has_a_time_limit_and_ends_with_an_error() -> None:
    async with a_front(gateway_max_stream_s=0.3) as front:
        left = asyncio.Event()

        async def answer(_: Got, pipe: Pipe) -> None:
            await pipe.open()
            await pipe.piece(EVENTS[0])
            await pipe.client_left()
            left.set()

        front.engine.answer = answer
        async with front.chat(stream=True) as passed:
            body = await passed.read()
        assert told_error(body)["code"] == "stream_time_limit"
        async with asyncio.timeout(30):
            await left.wait()
        assert front.gate.total == 0


async def test_an_engine_that_never_answers_is_a_504() -> None:
    async with a_front(gateway_max_stream_s=0.3) as front:

        async def answer(_: Got, pipe: Pipe) -> None:
            await pipe.client_left()

        front.engine.answer = answer
        async with front.chat() as passed:
            assert passed.status == 504
            assert (await passed.json())["error"]["code"] == "stream_time_limit"
        assert front.gate.total == 0


@pytest.mark.parametrize(
    ("status", "body", "becomes", "code", "message"),
    [
        (400, b'{"error":{"message":"no","type":"invalid_request_error","code":400}}', 400,
         "invalid_request_error", "no"),
        (422, b'{"error":"batch size 33 > 32","error_type":"Validation"}', 422,
         "engine_error", "batch size 33 > 32"),
        (400, b'{"object":"error","message":"no such thing","type":"BadRequestError","code":400}',
         400, "BadRequestError", "no such thing"),
        (500, b"Internal Server Error", 500, "engine_error", "Internal Server Error"),
        (401, b'{"error":{"message":"Invalid API Key","code":401}}', 502, "engine_refused",
         "Invalid API Key"),
        (307, b"", 502, "engine_refused", "307"),
    ],
)  # fmt: skip
async def test_errors_of_engines_come_in_one_form(
    front: Front, status: int, body: bytes, becomes: int, code: str, message: str
) -> None:
    async def answer(_: Got, pipe: Pipe) -> None:
        await pipe.whole(body, status, extra="Location: http://example.org/\r\n")

    front.engine.answer = answer
    async with front.chat() as passed:
        assert passed.status == becomes
        error = (await passed.json())["error"]
    assert error["code"] == code
    assert message in error["message"]
    assert error["remedy"]
    assert front.gate.total == 0


async def test_a_busy_engine_says_when_to_come_again(front: Front) -> None:
    async def answer(_: Got, pipe: Pipe) -> None:
        await pipe.whole(b'{"error":{"message":"Loading model","code":503}}', 503)

    front.engine.answer = answer
    async with front.chat() as passed:
        assert passed.status == 503
        assert passed.headers["Retry-After"] == "1"


async def test_a_connection_that_the_engine_closed_meanwhile_costs_no_request() -> None:
    async with a_front(Limits(retry_pause=0.01, engine_idle=30)) as front:
        for _ in range(3):
            async with front.chat() as passed:
                assert passed.status == 200
            await front.engine.stop()
            await front.engine.start()
        assert front.gate.total == 0
