"""The gate, with the real scheduler and engines that a test steers."""

import asyncio

import pytest

from contracts.tiers import SwapProgress
from services.gateway.engines.engine import LoadError
from services.gateway.gate import Refused
from services.gateway.scheduling.types import Limits
from tests.services.gateway.gate_bench import bench
from tests.services.gateway.scripted_owner import spec_of


async def test_a_request_loads_its_engine_and_the_next_one_finds_it_there() -> None:
    async with bench() as b:
        lease = await b.gate.enter(b.spec("one"))
        assert lease.upstream.spec.name == "one"
        assert lease.upstream.context == 1024
        lease.release()
        lease.release()
        (await b.gate.enter(b.spec("one"))).release()
        assert b.engines["one"].calls == ["start 1024"]
        assert not b.gate.busy()


async def test_a_swap_waits_for_what_runs_and_cuts_nothing() -> None:
    async with bench() as b:
        first = await b.gate.enter(b.spec("one"))
        second = asyncio.create_task(b.gate.enter(b.spec("two")))
        await b.until("one", "draining")
        assert b.engines["one"].calls == ["start 1024"]
        await asyncio.sleep(0)
        first.release()
        (await second).release()
        assert b.engines["one"].calls == ["start 1024", "stop"]
        shown = b.metrics.exposition().decode()
        assert 'swap_seconds_count{model="one",phase="drain"} 1.0' in shown
        assert 'swap_seconds_count{model="one",phase="stop"} 1.0' in shown


async def test_two_who_wait_for_one_swap_are_both_let_in() -> None:
    async with bench(spec_of("one", flags=("--parallel", "2")), spec_of("two")) as b:
        held = await b.gate.enter(b.spec("two"))
        waiting = [asyncio.create_task(b.gate.enter(b.spec("one"))) for _ in range(2)]
        await b.until("two", "draining")
        held.release()
        leases = await asyncio.gather(*waiting)
        assert b.in_flight("one") == 2
        for lease in leases:
            lease.release()
        assert b.engines["one"].calls == ["start 1024"]


async def test_a_fresh_model_serves_the_request_it_was_loaded_for_before_it_can_go() -> None:
    async with bench() as b:
        b.engines["one"].go.clear()
        first = asyncio.create_task(b.gate.enter(b.spec("one")))
        await b.until("one", "loading")
        second = asyncio.create_task(b.gate.enter(b.spec("two")))
        await asyncio.sleep(0)
        b.engines["one"].go.set()
        lease = await first
        assert not second.done()
        lease.release()
        (await second).release()


async def test_a_request_during_a_ttl_unload_gets_a_new_start() -> None:
    async with bench(spec_of("one", ttl_s=0.01)) as b:
        stopping, may_stop = asyncio.Event(), asyncio.Event()

        async def slow_stop() -> None:
            stopping.set()
            await may_stop.wait()

        b.engines["one"].stop = slow_stop  # type: ignore[method-assign]
        (await b.gate.enter(b.spec("one"))).release()
        await stopping.wait()
        late = asyncio.create_task(b.gate.enter(b.spec("one")))
        await asyncio.sleep(0)
        assert b.state("one") == "unloading"
        may_stop.set()
        (await late).release()
        assert b.engines["one"].calls == ["start 1024", "start 1024"]


async def test_the_last_who_waits_for_a_load_ends_it_by_leaving() -> None:
    async with bench() as b:
        b.engines["one"].go.clear()
        waiting = [asyncio.create_task(b.gate.enter(b.spec("one"))) for _ in range(2)]
        await b.until_called("one")
        waiting[0].cancel()
        await asyncio.wait({waiting[0]})
        assert b.state("one") == "loading"
        waiting[1].cancel()
        await b.until("one", "stopped")
        assert b.engines["one"].calls == ["start 1024", "cancelled"]
        assert not b.gate.busy()


async def test_a_client_that_leaves_at_the_moment_of_its_grant_gives_it_back() -> None:
    async with bench() as b:
        held = await b.gate.enter(b.spec("one"))
        waiting = asyncio.create_task(b.gate.enter(b.spec("one")))
        await asyncio.sleep(0)
        # The grant is set by the release, and the task is cancelled before it runs again.
        held.release()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert b.in_flight("one") == 0


async def test_a_client_that_left_just_before_its_grant_does_not_get_it() -> None:
    async with bench() as b:
        held = await b.gate.enter(b.spec("one"))
        waiting = asyncio.create_task(b.gate.enter(b.spec("one")))
        await asyncio.sleep(0)
        # Its future is cancelled now, and its task runs only after the grant.
        waiting.cancel()
        held.release()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert b.in_flight("one") == 0


async def test_a_full_queue_is_refused_with_when_to_come_back() -> None:
    async with bench(limits=Limits(queue=1)) as b:
        held = await b.gate.enter(b.spec("one"))
        waiting = asyncio.create_task(b.gate.enter(b.spec("one")))
        await asyncio.sleep(0)
        with pytest.raises(Refused) as refused:
            await b.gate.enter(b.spec("one"))
        assert (refused.value.status, refused.value.code) == (429, "queue_full")
        assert refused.value.retry_after_s
        held.release()
        (await waiting).release()


async def test_who_waits_too_long_is_refused_by_the_one_timer() -> None:
    async with bench(limits=Limits(queue_timeout_s=1.5)) as b:
        held = await b.gate.enter(b.spec("one"))
        with pytest.raises(Refused) as refused:
            await b.gate.enter(b.spec("one"))
        assert (refused.value.status, refused.value.code) == (503, "queue_timeout")
        held.release()


async def test_a_load_that_fails_is_told_to_all_who_wait_with_its_reason() -> None:
    async with bench() as b:
        b.engines["one"].error = LoadError("crashed", "x", "Its tensors are damaged.", "Pull it.")
        waiting = [b.gate.enter(b.spec("one")) for _ in range(3)]
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Refused] * 3
        assert "damaged" in str(answers[0])
        assert b.state("one") == "failed"


async def test_out_of_memory_is_tried_again_with_less_and_said_so() -> None:
    async with bench() as b:
        b.engines["one"].errors.append(LoadError("out_of_memory", "x", "9 lack.", "Free them."))
        lease = await b.gate.enter(b.spec("one"))
        assert lease.upstream.context == 512
        assert b.gate.running_context(b.spec("one")) == 512
        assert b.gate.status().engines[0].context_reduced
        lease.release()
        assert b.engines["one"].calls == ["start 1024", "start 512"]


async def test_out_of_memory_twice_is_an_error_that_tells_what_is_lacking() -> None:
    async with bench() as b:
        b.engines["one"].error = LoadError("out_of_memory", "x", "9 lack.", "Free them.")
        with pytest.raises(Refused, match="9 lack") as refused:
            await b.gate.enter(b.spec("one"))
        assert refused.value.status == 503
        assert b.engines["one"].calls == ["start 1024", "start 512"]


async def test_progress_tells_place_phase_and_that_it_is_there() -> None:
    async with bench() as b:
        told: list[SwapProgress] = []
        held = await b.gate.enter(b.spec("one"))
        waiting = asyncio.create_task(b.gate.enter(b.spec("two"), on_progress=told.append))
        await b.until("one", "draining")
        held.release()
        (await waiting).release()
        stages = [progress.stage for progress in told]
        assert stages == sorted(stages, key=["queued", "draining", "loading", "ready"].index)
        assert stages[-1] == "ready"
        assert {"draining", "loading"} <= set(stages)
        assert any(p.phase == "ready" and p.progress == 0.5 for p in told)


async def test_what_runs_already_is_adopted_with_its_context() -> None:
    async with bench(found="one") as b:
        assert b.state("one") == "ready"
        assert b.gate.running_context(b.spec("one")) == 700
        status = b.gate.status().engines[0]
        assert status.context_reduced
        (await b.gate.enter(b.spec("one"))).release()
        assert b.engines["one"].calls == []


async def test_what_is_to_be_preloaded_is_loaded_at_once() -> None:
    async with bench(spec_of("one", preload=True), spec_of("two")) as b:
        await b.until("one", "ready")
        assert b.engines["two"].calls == []


async def test_an_engine_that_died_serves_the_next_request_again() -> None:
    async with bench() as b:
        lease = await b.gate.enter(b.spec("one"))
        b.engines["one"].end.set_result("exit code 139")
        await b.until("one", "failed")
        lease.release()
        (await b.gate.enter(b.spec("one"))).release()
        assert b.engines["one"].calls == ["start 1024", "stop", "start 1024"]
        assert b.gate.status().engines[0].restarts == 1


async def test_load_and_unload_return_when_it_is_there_and_gone() -> None:
    async with bench() as b:
        await b.gate.load(b.spec("two"))
        assert b.state("two") == "ready"
        await b.gate.unload(b.spec("two"))
        assert b.state("two") == "stopped"
        await b.gate.unload(b.spec("two"))


async def test_an_unload_returns_though_it_is_loaded_again_at_once() -> None:
    async with bench() as b:
        held = await b.gate.enter(b.spec("one"))
        unloading = asyncio.create_task(b.gate.unload(b.spec("one")))
        await b.until("one", "draining")
        next_one = asyncio.create_task(b.gate.enter(b.spec("one")))
        await asyncio.sleep(0)
        held.release()
        await unloading
        (await next_one).release()
        assert b.engines["one"].calls == ["start 1024", "stop", "start 1024"]


async def test_pinned_and_locked_models_refuse_others_with_409() -> None:
    async with bench() as b:
        await b.gate.load(b.spec("one"))
        b.gate.pin(b.spec("one"), True)
        for refusal in (b.gate.enter(b.spec("two")), b.gate.unload(b.spec("one"))):
            with pytest.raises(Refused) as refused:
                await refusal
            assert refused.value.status == 409
        b.gate.pin(b.spec("one"), False)
        b.gate.lock(b.spec("one"), True)
        b.gate.lock(b.spec("two"), False)
        assert b.gate.status().locked == "one"
        with pytest.raises(Refused) as refused:
            await b.gate.enter(b.spec("two"))
        assert (refused.value.status, refused.value.code) == (409, "model_locked")
        b.gate.lock(b.spec("one"), False)
        (await b.gate.enter(b.spec("two"))).release()


async def test_metrics_tell_states_and_queues_of_the_moment() -> None:
    async with bench() as b:
        held = await b.gate.enter(b.spec("one"))
        waiting = asyncio.create_task(b.gate.enter(b.spec("one")))
        await asyncio.sleep(0)
        shown = b.metrics.exposition().decode()
        assert 'variet_gateway_in_flight{model="one"} 1.0' in shown
        assert 'variet_gateway_queued{model="one"} 1.0' in shown
        assert 'variet_gateway_engine_state{model="one",state="ready"} 1.0' in shown
        assert 'variet_gateway_engine_state{model="one",state="stopped"} 0.0' in shown
        held.release()
        (await waiting).release()
