"""The logs of engines that run as processes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

from services.gateway.engines.records import Files
from tests.services.gateway.engines.bench import PATIENCE_S, Bench, Phases, spec


async def all_of(text: AsyncIterator[bytes]) -> bytes:
    return b"".join([lines async for lines in text])


async def until_told(text: AsyncIterator[bytes], words: bytes) -> None:
    """Returns when these words have come."""
    async with asyncio.timeout(PATIENCE_S):
        while words not in await anext(text):
            pass


async def test_an_engines_log_is_told_and_followed_into_its_next_start(bench: Bench) -> None:
    bench.model()
    host = bench.host()
    engine = host.engine(spec())
    await engine.start(2048, Phases())
    log = await all_of(engine.logs(follow=False))
    assert log.startswith(b"srv  llama_server: initializing ...\n")
    async with aclosing(engine.logs(follow=True)) as following:  # type: ignore[type-var]
        await until_told(following, b"model loaded")
        await engine.stop()
        await until_told(following, b"cleaning up")
        await engine.start(2048, Phases())
        await until_told(following, b"model loaded")
    await host.close()


async def test_one_that_was_never_started_has_no_log_yet(bench: Bench) -> None:
    host = bench.host()
    engine = host.engine(spec())
    assert await all_of(engine.logs(follow=False)) == b""
    async with aclosing(engine.logs(follow=True)) as following:  # type: ignore[type-var]
        first = asyncio.ensure_future(anext(following))
        await asyncio.sleep(0)
        bench.model()
        await engine.start(2048, Phases())
        async with asyncio.timeout(PATIENCE_S):
            assert b"initializing" in await first
    await host.close()


async def test_lines_are_whole_and_a_log_that_was_emptied_is_read_from_its_start(
    tmp_path: Path,
) -> None:
    files = Files(tmp_path, "m")
    files.log.write_bytes(b"one\ntw")
    async with aclosing(files.text(follow=True)) as following:  # type: ignore[type-var]
        assert await anext(following) == b"one\n"
        files.log.write_bytes(b"3\n")
        async with asyncio.timeout(PATIENCE_S):
            assert await anext(following) == b"tw\n"
            assert await anext(following) == b"3\n"


async def test_a_long_log_lets_others_have_their_turn(tmp_path: Path) -> None:
    files = Files(tmp_path, "m")
    files.log.write_bytes(b"a line of a log\n" * 200_000)
    turns = 0

    async def beside() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(beside())
    assert len(await all_of(files.text(follow=False))) == files.log.stat().st_size
    other.cancel()
    assert turns > 10
