"""How the front stops: nobody new gets in, and whoever is in may finish, for a while."""

import asyncio

import aiohttp
import pytest

from services.gateway.front.limits import Limits
from tests.services.gateway.front.byte_engine import EVENTS, Got, Pipe
from tests.services.gateway.front.conftest import Front, a_front, until
from tests.services.gateway.front.test_breaking import told_error


async def test_a_running_stream_ends_whole_while_new_requests_are_refused(front: Front) -> None:
    go_on = asyncio.Event()

    async def answer(_: Got, pipe: Pipe) -> None:
        await pipe.open()
        await pipe.piece(EVENTS[0])
        await go_on.wait()
        for event in EVENTS[1:]:
            await pipe.piece(event)
        await pipe.end()

    front.engine.answer = answer
    async with front.chat(stream=True) as passed:
        await passed.content.readexactly(len(EVENTS[0]))
        stop = asyncio.create_task(front.site.stop(60))
        await asyncio.sleep(0)
        async with front.chat() as refused:
            assert refused.status == 503
            assert int(refused.headers["Retry-After"]) >= 1
            assert (await refused.json())["error"]["code"] == "stopping"
        async with front.http.get(front.url("/ready")) as answer_:
            assert answer_.status == 503
        async with front.http.get(front.url("/health")) as answer_:
            assert answer_.status == 200
        go_on.set()
        assert await passed.read() == b"".join(EVENTS[1:])
    async with asyncio.timeout(30):
        await stop
    with pytest.raises(aiohttp.ClientConnectorError):
        await front.chat()


async def test_after_the_limit_streams_end_with_an_error_and_the_queue_with_a_503() -> None:
    async with a_front(Limits(last_words=10)) as front:
        left = asyncio.Event()

        async def answer(_: Got, pipe: Pipe) -> None:
            await pipe.open()
            await pipe.piece(EVENTS[0])
            await pipe.client_left()
            left.set()

        front.engine.answer = answer
        async with front.chat(stream=True) as passed:
            await passed.content.readexactly(len(EVENTS[0]))
            front.gate.closed = True
            waiting = asyncio.create_task(front.chat().__aenter__())
            async with asyncio.timeout(30):
                await until(lambda: front.gate.waiting)
                stop = asyncio.create_task(front.site.stop(0.05))
                error = told_error(await passed.read())
                assert error["code"] == "stopping"
                assert error["retry_after"] >= 1
                refused = await waiting
                assert refused.status == 503
                await left.wait()
                await stop
        assert front.gate.total == front.gate.waiting == 0


async def test_a_stop_that_is_hurried_waits_for_nobody(front: Front) -> None:
    async def answer(_: Got, pipe: Pipe) -> None:
        await pipe.open()
        await pipe.piece(EVENTS[0])
        await pipe.client_left()

    front.engine.answer = answer
    async with front.chat(stream=True) as passed:
        await passed.content.readexactly(len(EVENTS[0]))
        stop = asyncio.create_task(front.site.stop(600))
        await asyncio.sleep(0)
        stop.cancel()
        assert told_error(await passed.read())["code"] == "stopping"
    async with asyncio.timeout(30):
        await asyncio.wait({stop})
    with pytest.raises(aiohttp.ClientConnectorError):
        await front.chat()


async def test_whoever_follows_a_log_does_not_hold_it_up(front: Front) -> None:
    async with front.admin("GET", "/tiers/fast/logs?follow=1") as answer:
        await answer.content.readexactly(8)
        async with asyncio.timeout(30):
            await front.site.stop(60)
    assert front.gate.logs_closed


async def test_stopping_twice_is_harmless(front: Front) -> None:
    await front.site.stop(0)
    await front.site.stop(0)
