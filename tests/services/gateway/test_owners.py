"""Owners, with an engine that a test steers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.gateway.engines.engine import LoadError, Running
from services.gateway.metrics import Metrics
from services.gateway.owners import Owner
from tests.services.gateway.scripted_owner import ScriptedEngine, ScriptedRoom, Told, spec_of


class Bench:
    def __init__(self, sleep: int = 0) -> None:
        self.engine = ScriptedEngine(spec_of(sleep=sleep))
        self.room = ScriptedRoom()
        self.told = Told()
        self.metrics = Metrics()
        self.owner = Owner(self.engine, self.room, self.told, self.metrics)


@asynccontextmanager
async def bench(sleep: int = 0, stop: bool = True) -> AsyncIterator[Bench]:
    made = Bench(sleep)
    made.owner.open()
    try:
        yield made
    finally:
        made.engine.go.set()
        await made.owner.close(stop)


async def test_a_load_goes_through_its_phases_and_is_told_with_what_it_took() -> None:
    async with bench() as b:
        phases: list[str | None] = []
        b.told.on_move = lambda: phases.append(b.owner.phase)
        b.owner.load(1)
        await b.told.until("loaded 90")
        assert phases == ["memory", "start", "ready", "ready"]
        assert b.owner.phase is None
        assert b.owner.running is not None
        assert b.owner.running.context == 1024
        shown = b.metrics.exposition().decode()
        for phase in ("memory", "start", "ready"):
            assert f'swap_seconds_count{{model="small",phase="{phase}"}} 1.0' in shown


async def test_the_second_attempt_takes_a_smaller_context() -> None:
    async with bench() as b:
        b.owner.load(2)
        await b.told.until("loaded 90")
        assert b.engine.calls == ["start 512"]


async def test_a_load_that_is_aborted_leaves_nothing_and_the_next_one_starts_anew() -> None:
    async with bench() as b:
        b.engine.go.clear()
        begun = asyncio.Event()
        b.told.on_move = begun.set
        b.owner.load(1)
        await begun.wait()
        b.owner.abort_load()
        await b.told.until("failed aborted")
        b.engine.go.set()
        b.owner.load(1)
        await b.told.until("loaded 90")
        assert b.owner.running is not None


async def test_an_abort_before_the_load_has_begun_means_that_load_only() -> None:
    async with bench() as b:
        b.owner.load(1)
        b.owner.abort_load()
        b.owner.load(1)
        await b.told.until("loaded 90")
        assert b.told.words == ["failed aborted", "loaded 90"]
        assert b.engine.calls == ["start 1024"]


async def test_an_abort_of_a_load_that_is_ready_changes_nothing() -> None:
    async with bench() as b:
        b.owner.load(1)
        await b.told.until("loaded 90")
        b.owner.abort_load()
        b.owner.unload("stopped", "asked")
        await b.told.until("stopped")
        assert b.told.words == ["loaded 90", "stopped"]


@pytest.mark.parametrize("kind", ["out_of_memory", "crashed", "timeout"])
async def test_a_load_that_fails_is_told_with_its_kind(kind: str) -> None:
    async with bench() as b:
        b.engine.error = LoadError(kind, "x", "It broke.", "Mend it.")  # type: ignore[arg-type]
        b.owner.load(1)
        await b.told.until(f"failed {kind}")
        assert b.told.failures[0].error.message == "It broke."
        assert b.owner.running is None
        assert b.owner.restarts == 1


async def test_an_error_that_nobody_foresaw_fails_the_load_and_not_the_owner() -> None:
    async with bench() as b:
        b.engine.error = RuntimeError("driver gone")
        b.owner.load(1)
        await b.told.until("failed crashed")
        assert "driver gone" in b.told.failures[0].error.message
        assert b.engine.calls[-1] == "stop"
        b.engine.error = None
        b.owner.load(1)
        await b.told.until("loaded 90")


async def test_memory_that_does_not_come_free_fails_the_load_before_a_start() -> None:
    async with bench() as b:
        b.room.lacking = LoadError("out_of_memory", "x", "card0 lacks 5 MiB.", "Free it.")
        b.owner.load(1)
        await b.told.until("failed out_of_memory")
        assert b.engine.calls == []


async def test_an_engine_that_ends_by_itself_is_told_cleared_away_and_can_come_back() -> None:
    async with bench() as b:
        b.owner.load(1)
        await b.told.until("loaded 90")
        b.engine.end.set_result("exit code 139")
        await b.told.until("died crashed")
        assert b.owner.running is None
        assert "exit code 139" in b.told.failures[0].error.message
        b.owner.load(1)
        await b.told.until("loaded 90", 2)
        assert b.engine.calls == ["start 1024", "stop", "start 1024"]


async def test_an_end_for_want_of_memory_is_told_as_such() -> None:
    async with bench() as b:
        b.owner.load(1)
        await b.told.until("loaded 90")
        b.engine.end.set_result("CUDA error: out of memory")
        await b.told.until("died out_of_memory")


async def test_words_that_only_hold_those_letters_are_no_want_of_memory() -> None:
    async with bench() as b:
        b.owner.load(1)
        await b.told.until("loaded 90")
        b.engine.end.set_result("with exit code 1. Said: cannot zoom, boom")
        await b.told.until("died crashed")


async def test_a_container_that_its_limit_ended_is_told_as_such() -> None:
    async with bench() as b:
        b.owner.load(1)
        await b.told.until("loaded 90")
        b.engine.end.set_result("out of memory, at the limit of its container.")
        await b.told.until("died out_of_memory")


@pytest.mark.parametrize("steps", range(6))
async def test_a_late_notice_of_the_end_of_one_that_was_stopped_is_no_death(steps: int) -> None:
    async with bench() as b:
        b.owner.load(1)
        await b.told.until("loaded 90")
        # Somewhere in these steps both are in the inbox, the stop before the notice.
        b.engine.end.set_result("terminated")
        for _ in range(steps):
            await asyncio.sleep(0)
        b.owner.unload("stopped", "evicted")
        b.owner.load(1)
        await b.told.until("loaded 90", 2)
        assert b.told.words[-2:] == ["stopped", "loaded 90"]


async def test_one_that_sleeps_is_woken_and_one_that_cannot_sleep_is_stopped() -> None:
    async with bench(sleep=1) as b:
        b.owner.load(1)
        await b.told.until("loaded 90")
        b.owner.unload("asleep", "evicted")
        await b.told.until("asleep")
        b.owner.load(1)
        await b.told.until("loaded 90", 2)
        b.engine.sleep_error = LoadError("refused", "x", "It cannot.", "Stop it.")
        b.owner.unload("asleep", "evicted")
        await b.told.until("stopped")
        assert b.engine.calls == ["start 1024", "sleep", "wake", "sleep", "stop"]


async def test_one_that_does_not_wake_is_started_anew_in_the_same_load() -> None:
    async with bench(sleep=1) as b:
        b.owner.load(1)
        await b.told.until("loaded 90")
        b.owner.unload("asleep", "evicted")
        await b.told.until("asleep")
        b.engine.error = LoadError("crashed", "x", "It broke.", "Mend it.")
        b.owner.load(1)
        await b.told.until("failed crashed")
        assert b.engine.calls == ["start 1024", "sleep", "wake", "stop", "start 1024"]


async def test_a_gateway_that_goes_leaves_engines_running_unless_it_is_to_stop_them() -> None:
    async with bench(stop=False) as kept:
        kept.owner.load(1)
        await kept.told.until("loaded 90")
    assert kept.engine.calls == ["start 1024"]
    async with bench(stop=True) as ended:
        ended.owner.load(1)
        await ended.told.until("loaded 90")
    assert ended.engine.calls == ["start 1024", "stop"]


async def test_a_load_under_way_is_given_up_when_the_gateway_goes() -> None:
    b = Bench()
    b.owner.open()
    b.engine.go.clear()
    begun = asyncio.Event()
    b.told.on_move = lambda: begun.set() if b.owner.phase == "ready" else None
    b.owner.load(1)
    await begun.wait()
    await b.owner.close(stop=False)
    assert b.engine.calls == ["start 1024", "cancelled"]


async def test_what_an_earlier_gateway_left_is_taken_over_and_watched() -> None:
    b = Bench()
    b.engine.found = Running("http://127.0.0.1:1", "key", 700, "1", {"ram": 80}, adopted=True)
    assert await b.owner.adopt() == {"ram": 80}
    b.owner.open()
    assert b.owner.running is b.engine.found
    b.engine.end.set_result("killed")
    await b.told.until("died crashed")
    await b.owner.close(stop=True)
