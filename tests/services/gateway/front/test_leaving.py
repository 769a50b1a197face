"""Clients that leave, or do not read: the engine hears of it at once, and nothing stays held."""

import asyncio
import socket

import aiohttp
import pytest

from services.gateway.front.limits import Limits
from tests.services.gateway.front.byte_engine import EVENTS, Got, Pipe
from tests.services.gateway.front.conftest import USER, Front, a_front, until


async def post_raw(front: Front, body: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A chat request over a connection of its own, of which the system keeps little."""
    plug = socket.socket()
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    plug.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plug, ("127.0.0.1", front.site.port))
    reader, writer = await asyncio.open_connection(sock=plug)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {USER}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()
    return reader, writer


STREAM = b'{"model":"fast","messages":[],"stream":true}'
WHOLE = b'{"model":"fast","messages":[]}'


@pytest.mark.parametrize("how", ["closes", "resets", "closes its own direction"])
async def test_a_client_that_leaves_mid_stream_ends_the_engines_work(
    front: Front, how: str
) -> None:
    left = asyncio.Event()

    async def answer(_: Got, pipe: Pipe) -> None:
        await pipe.open()
        await pipe.piece(EVENTS[0])
        await pipe.client_left()
        left.set()

    front.engine.answer = answer
    reader, writer = await post_raw(front, STREAM)
    await reader.readuntil(b"Hel")
    assert front.gate.total == 1
    if how == "closes":
        writer.close()
    elif how == "resets":
        writer.transport.abort()
    else:
        writer.write_eof()
    async with asyncio.timeout(30):
        await left.wait()
    await until(lambda: front.gate.total == 0)
    await until(lambda: front.figure("cancelled_total", model="small") == 1)
    writer.close()


async def test_a_client_that_leaves_before_a_whole_answer_ends_the_engines_work(
    front: Front,
) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def answer(_: Got, pipe: Pipe) -> None:
        asked.set()
        await pipe.client_left()
        left.set()

    front.engine.answer = answer
    _, writer = await post_raw(front, WHOLE)
    async with asyncio.timeout(30):
        await asked.wait()
        writer.close()
        await left.wait()
    await until(lambda: front.gate.total == 0)
    assert front.figure("cancelled_total", model="small") == 1


async def test_a_client_that_leaves_the_queue_is_no_longer_in_it(front: Front) -> None:
    front.gate.closed = True
    _, writer = await post_raw(front, WHOLE)
    await until(lambda: front.gate.waiting == 1)
    writer.close()
    await until(lambda: front.gate.waiting == 0)
    await until(lambda: front.figure("cancelled_total", model="small") == 1)
    assert front.gate.total == 0
    assert front.engine.got == []


async def test_a_client_that_leaves_in_the_step_of_its_grant_holds_nothing(front: Front) -> None:
    """The lease is given while the connection's end is already known."""
    for _ in range(20):
        front.gate.closed = True
        _, writer = await post_raw(front, STREAM)
        await until(lambda: front.gate.waiting == 1)
        writer.transport.abort()
        await asyncio.sleep(0)
        front.gate.open()
        await until(lambda: front.gate.waiting == 0 and front.gate.total == 0)


async def test_one_that_asked_for_progress_and_leaves_holds_nothing(front: Front) -> None:
    front.gate.closed = True
    headers = {"X-Variet-Progress": "1"}
    async with front.chat(stream=True, headers=headers) as answer:
        assert answer.status == 200
        await until(lambda: front.gate.waiting == 1)
    await until(lambda: front.gate.waiting == 0)
    front.gate.open()
    assert front.gate.total == 0


async def test_a_client_that_reads_nothing_does_not_hold_its_engine() -> None:
    async with a_front(Limits(slow_client=0.2)) as front:
        left = asyncio.Event()

        async def answer(_: Got, pipe: Pipe) -> None:
            await pipe.open()
            try:
                while True:
                    await pipe.piece(b"data: " + b"x" * 60_000 + b"\n\n")
            finally:
                left.set()

        front.engine.answer = answer
        _, writer = await post_raw(front, STREAM)
        async with asyncio.timeout(30):
            await left.wait()
        await until(lambda: front.gate.total == 0)
        assert front.figure("cancelled_total", model="small") == 1
        writer.close()


async def test_a_client_that_reads_no_whole_answer_is_given_up() -> None:
    async with a_front(Limits(slow_client=0.2)) as front:

        async def answer(_: Got, pipe: Pipe) -> None:
            await pipe.whole(b"x" * 8_000_000)

        front.engine.answer = answer
        _, writer = await post_raw(front, WHOLE)
        await until(lambda: front.figure("cancelled_total", model="small") == 1)
        assert front.gate.total == 0
        writer.close()


async def test_a_slow_client_gets_every_byte_and_slows_its_engine(front: Front) -> None:
    """What is not read stays with the engine, not in the gateway's memory."""
    sent = 0

    async def answer(_: Got, pipe: Pipe) -> None:
        nonlocal sent
        await pipe.open()
        for _n in range(400):
            await pipe.piece(b"data: " + b"x" * 60_000 + b"\n\n")
            sent += 1
        await pipe.piece(EVENTS[-1])
        await pipe.end()

    front.engine.answer = answer
    async with front.chat(stream=True) as passed:
        settled = -1
        while settled != sent:
            settled = sent
            await asyncio.sleep(0.2)
        assert sent < 400
        assert len(await passed.read()) == 400 * 60_008 + len(EVENTS[-1])


async def test_a_body_that_never_ends_is_given_up() -> None:
    async with a_front(Limits(body=0.1)) as front:
        reader, writer = await post_raw(front, WHOLE)
        assert b" 200 " in await reader.readline()
        writer.write(
            f"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {USER}\r\n"
            "Content-Length: 100\r\n\r\n{".encode()
        )
        rest = await reader.readuntil(b"body_too_slow")
        assert b" 408 " in rest
        writer.close()


async def test_a_body_without_an_end_is_refused_once_it_is_too_large() -> None:
    async with a_front(gateway_max_body_mib=1) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.site.port)
        writer.write(
            f"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {USER}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        for _ in range(20):
            writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
        async with asyncio.timeout(30):
            assert b" 413 " in await reader.readline()
        writer.close()


async def test_headers_that_never_end_are_given_up() -> None:
    async with a_front(Limits(head=0.2)) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.site.port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n")
        async with asyncio.timeout(30):
            assert await reader.read() == b""
        writer.close()


async def test_a_body_that_is_cut_reaches_no_engine(front: Front) -> None:
    reader, writer = await post_raw(front, WHOLE)
    await reader.readuntil(b"}")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {USER}\r\n"
    writer.write(head.encode() + b"Content-Length: 100\r\n\r\n" + STREAM)
    await writer.drain()
    writer.close()
    async with aiohttp.ClientSession() as http, http.get(front.url("/health")) as answer:
        assert answer.status == 200
    assert len(front.engine.got) == 1
