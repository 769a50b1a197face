"""Reading the configuration again while the gateway serves."""

import asyncio
from dataclasses import replace

import pytest

from contracts.errors import SettingsError
from tests.services.gateway.gate_bench import bench, configuration
from tests.services.gateway.scripted_owner import PATIENCE_S, spec_of


async def test_a_reload_touches_only_what_is_started_in_another_way() -> None:
    async with bench(spec_of("one"), spec_of("two")) as b:
        await b.gate.load(b.spec("one"))
        b.new = configuration(
            replace(b.spec("one"), aliases=("uno",), ttl_s=900.0),
            replace(b.spec("two"), context=512),
            spec_of("three"),
        )
        reloaded = await b.gate.reload()
        assert (reloaded.added, reloaded.changed, reloaded.removed) == (("three",), ("two",), ())
        assert b.gate.catalogue.resolve("uno").name == "one"
        assert b.gate.status().engines[0].unloads_in_s is not None
        assert b.engines["one"].calls == ["start 1024"]
        await b.gate.load(b.spec("two"))
        assert b.engines["two"].calls == ["start 512"]


async def test_a_reload_drains_what_changes_and_starts_it_as_it_is_now() -> None:
    async with bench() as b:
        held = await b.gate.enter(b.spec("one"))
        b.new = configuration(replace(b.spec("one"), context=512), spec_of("two"))
        await b.gate.reload()
        waiting = asyncio.create_task(b.gate.enter(b.spec("one")))
        await b.until("one", "draining")
        assert held.upstream.context == 1024
        held.release()
        lease = await waiting
        assert lease.upstream.context == 512
        assert b.engines["one"].spec.context == 512
        lease.release()


async def test_a_reload_removes_what_is_gone_once_its_last_answer_has_ended() -> None:
    async with bench() as b:
        held = await b.gate.enter(b.spec("one"))
        engine = b.engines["one"]
        b.new = configuration(spec_of("two"))
        assert (await b.gate.reload()).removed == ("one",)
        assert engine.calls == ["start 1024"]
        held.release()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if "one" not in b.gate.owners:
                    break
                await asyncio.sleep(0)
        assert engine.calls == ["start 1024", "stop"]


async def test_what_is_gone_and_dies_while_it_drains_is_forgotten_too() -> None:
    async with bench() as b:
        held = await b.gate.enter(b.spec("one"))
        b.new = configuration(spec_of("two"))
        await b.gate.reload()
        b.engines["one"].end.set_result("exit code 139")
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if "one" not in b.gate.owners:
                    break
                await asyncio.sleep(0)
        held.release()


async def test_a_reload_forgets_what_is_gone_and_was_not_running() -> None:
    async with bench() as b:
        b.new = configuration(spec_of("two"))
        await b.gate.reload()
        assert set(b.gate.owners) == {"two"}
        assert [engine.name for engine in b.gate.status().engines] == ["two"]


async def test_metrics_of_the_present_forget_what_is_gone() -> None:
    async with bench() as b:
        assert b'model="one",state="stopped"} 1.0' in b.metrics.exposition()
        b.new = configuration(spec_of("two"))
        await b.gate.reload()
        told = b.metrics.exposition()
        assert b'model="one",state=' not in told
        assert b'model="two",state="stopped"} 1.0' in told


async def test_a_configuration_that_is_wrong_changes_nothing() -> None:
    async with bench() as b:
        await b.gate.load(b.spec("one"))
        before = b.gate.catalogue
        b.new = SettingsError("bad_manifest", "It is wrong.", "Correct it.")
        with pytest.raises(SettingsError):
            await b.gate.reload()
        assert b.gate.catalogue is before
        assert b.state("one") == "ready"
