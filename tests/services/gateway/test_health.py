"""Canaries of engines that are there and break off each answer."""

import asyncio

import aiohttp

from services.gateway.health import Health
from tests.services.gateway.gate_bench import bench
from tests.services.gateway.scripted_owner import PATIENCE_S


async def test_an_engine_that_lives_and_answers_nobody_is_restarted() -> None:
    async with bench() as b:
        # Nobody listens where the test's engines say that they do.
        await b.gate.load(b.spec("one"))
        watching = asyncio.create_task(Health(b.gate, 0.04, PATIENCE_S).run())
        await b.until("one", "failed")
        watching.cancel()
        assert b.engines["one"].calls == ["start 1024", "stop"]
        assert b.gate.owners["one"].restarts == 1
        await b.gate.load(b.spec("one"))


async def test_one_that_broke_off_once_is_asked_again_before_it_is_judged() -> None:
    async with bench() as b:
        await b.gate.load(b.spec("one"))
        health = Health(b.gate, 3_600.0, PATIENCE_S)
        standing = next(s for s in b.gate.standings() if s.spec.name == "one")
        async with aiohttp.ClientSession() as session:
            health._look(session, standing)
            probed = health._probed["one"]
            probed.doubted = True
            health._look(session, standing)
            assert probed.canary is not None
            await probed.canary
        assert (probed.doubted, b.state("one")) == (True, "ready")
