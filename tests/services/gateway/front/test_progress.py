"""Requests whose clients want to know how long they wait."""

import asyncio
from typing import Any

import orjson

from contracts.tiers import SwapProgress
from services.gateway.front.limits import Limits
from services.gateway.gate import Refused
from tests.services.gateway.front.byte_engine import EVENTS, Got, Pipe
from tests.services.gateway.front.conftest import Front, a_front, until
from tests.services.gateway.front.test_breaking import told_error

ASKED = {"X-Variet-Progress": "1"}


def comments(body: bytes) -> list[Any]:
    lines = [line[2:] for line in body.split(b"\n") if line.startswith(b": ")]
    return [line.decode() if line == b"ping" else orjson.loads(line) for line in lines]


def refusal(status: int = 429, retry_after_s: float | None = 0.2) -> Refused:
    return Refused(status, "queue_full", "Too many wait.", "Ask again.", retry_after_s)


async def test_a_waiting_client_is_told_where_it_stands_and_then_gets_the_answer(
    front: Front,
) -> None:
    front.gate.closed = True
    async with front.chat(stream=True, headers=ASKED) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/event-stream"
        note = front.gate.told[0]
        note(SwapProgress(engine="small", stage="queued", position=2))
        await answer.content.readuntil(b'"position":2')
        note(SwapProgress(engine="small", stage="loading", phase="start", progress=0.5))
        line = await answer.content.readuntil(b"\n\n")
        line += await answer.content.readuntil(b"\n\n")
        assert comments(line)[-1]["progress"] == 0.5
        front.gate.open()
        rest = await answer.read()
    assert rest.endswith(b"".join(EVENTS))
    assert front.gate.total == 0


async def test_a_client_that_need_not_wait_gets_the_engines_headers(front: Front) -> None:
    async with front.chat(stream=True, headers=ASKED) as answer:
        assert await answer.read() == b"".join(EVENTS)
        assert "X-Variet-Queue-Ms" in answer.headers


async def test_a_limit_that_is_known_at_once_is_a_plain_status(front: Front) -> None:
    def at_once() -> None:
        front.gate.told[-1](SwapProgress(engine="small", stage="queued", position=9))

    front.gate.refusal = refusal()
    front.gate.on_enter = at_once
    async with front.chat(stream=True, headers=ASKED) as answer:
        assert answer.status == 429
        assert answer.headers["Retry-After"] == "1"
        assert (await answer.json())["error"]["code"] == "queue_full"


async def test_a_later_refusal_is_an_error_event_without_done(front: Front) -> None:
    front.gate.closed = True
    front.gate.refusal = refusal(503, 7.2)
    async with front.chat(stream=True, headers=ASKED) as answer:
        assert answer.status == 200
        front.gate.open()
        error = told_error(await answer.read())
    assert error["code"] == "queue_full"
    assert error["status"] == 503
    assert error["retry_after"] == 8
    assert error["type"] == "server_error"
    assert front.figure("requests_total", model="small", route="chat", status="503") == 1


async def test_an_engines_error_is_an_event_then(front: Front) -> None:
    async def answer(_: Got, pipe: Pipe) -> None:
        await pipe.whole(b'{"error":{"message":"bad tools","type":"x"}}', 400)

    front.engine.answer = answer
    front.gate.closed = True
    async with front.chat(stream=True, headers=ASKED) as passed:
        front.gate.open()
        error = told_error(await passed.read())
    assert error["status"] == 400
    assert "bad tools" in error["message"]


async def test_silence_is_broken_by_pings_also_while_the_engine_reads() -> None:
    async with a_front(Limits(ping=0.05, progress_after=0.01)) as front:
        slow = asyncio.Event()

        async def answer(_: Got, pipe: Pipe) -> None:
            await slow.wait()
            await pipe.stream(*EVENTS)

        front.engine.answer = answer
        front.gate.closed = True
        async with front.chat(stream=True, headers=ASKED) as passed:
            for _ in range(3):
                await passed.content.readuntil(b": ping\n\n")
            front.gate.open()
            await until(lambda: front.engine.got)
            for _ in range(3):
                await passed.content.readuntil(b": ping\n\n")
            slow.set()
            assert (await passed.read()).endswith(b"".join(EVENTS))


async def test_only_streams_are_told(front: Front) -> None:
    async with front.chat(headers=ASKED) as answer:
        assert answer.headers["Content-Type"] == "application/json"
    assert front.gate.told == []


async def test_the_time_limit_is_an_event_then_too() -> None:
    async with a_front(Limits(progress_after=0.01), gateway_max_stream_s=0.3) as front:

        async def answer(_: Got, pipe: Pipe) -> None:
            await pipe.client_left()

        front.engine.answer = answer
        async with front.chat(stream=True, headers=ASKED) as passed:
            assert passed.status == 200
            assert told_error(await passed.read())["code"] == "stream_time_limit"
        assert front.gate.total == 0


async def test_waiting_has_no_time_limit_of_the_front() -> None:
    """How long a request may wait is the scheduler's to say."""
    async with a_front(Limits(body=0.1, progress_after=0.01), gateway_max_stream_s=0.1) as front:
        front.gate.closed = True
        async with front.chat(stream=True, headers=ASKED) as passed:
            await asyncio.sleep(0.8)
            front.gate.open()
            assert (await passed.read()).endswith(b"".join(EVENTS))
