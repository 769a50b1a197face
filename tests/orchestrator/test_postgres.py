"""What is PostgreSQL's own: several orchestrators on one database, cancellations, odd texts."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

import pytest

from contracts.errors import NotFound
from orchestrator.store.postgres.journal import PostgresJournal
from orchestrator.store.postgres.opening import open_postgres
from orchestrator.store.postgres.presence import GRACE_S
from orchestrator.store.postgres.store import PostgresStore
from orchestrator.store.postgres.uninterrupted import uninterrupted
from orchestrator.store.records import Addition, RunRecord, ThreadRecord, new_id
from tests.orchestrator.test_store import (
    ANSWER,
    FAR,
    OWNER,
    USER,
    a_run,
    a_thread,
    an_approval,
    an_execution,
    created,
    events,
    settle,
    status_of,
)

ROUNDS = 15


@dataclass
class Two:
    """The stores of two orchestrators on one database."""

    stores: list[PostgresStore]
    journals: list[PostgresJournal]


@pytest.fixture
async def two(database_url: str) -> AsyncIterator[Two]:
    async with AsyncExitStack() as stack:
        both = Two([], [])
        for _ in range(2):
            store, journal = await open_postgres(database_url)
            stack.push_async_callback(store.close)
            stack.push_async_callback(journal.close)
            both.stores.append(store)
            both.journals.append(journal)
        yield both


@pytest.fixture
def store(two: Two) -> PostgresStore:
    return two.stores[0]


async def a_free_thread(store: PostgresStore) -> ThreadRecord:
    run = await created(store)
    assert await settle(store, run, "completed")
    thread = await store.thread(run.thread_id)
    assert thread is not None
    return thread


async def _insist(store: PostgresStore, run: RunRecord) -> None:
    while not await store.create_run(run, [USER]):
        pass


# Races


async def test_of_many_runs_for_one_thread_one_is_created(two: Two) -> None:
    thread = await a_free_thread(two.stores[0])
    runs = [a_run(thread) for _ in range(10)]
    won = await asyncio.gather(
        *(two.stores[n % 2].create_run(run, [USER]) for n, run in enumerate(runs))
    )
    assert won.count(True) == 1
    live = await two.stores[0].live_run(thread.id)
    assert live == runs[won.index(True)]
    assert len(await two.stores[0].messages(thread.id)) == 3


async def test_of_many_starts_on_one_thread_one_starts(two: Two) -> None:
    thread = await a_free_thread(two.stores[0])
    runs = [a_run(thread, "queued") for _ in range(5)]
    for run in runs:
        assert await two.stores[0].create_run(run)
    won = await asyncio.gather(
        *(store.start_run(run.id, "p", FAR, [USER]) for run in runs for store in two.stores)
    )
    assert won.count(True) == 1
    assert len(await two.stores[0].messages(thread.id)) == 3


async def test_a_resting_run_is_resumed_by_one(two: Two) -> None:
    run = await created(two.stores[0], "awaiting_approval")
    won = await asyncio.gather(
        *(two.stores[n % 2].resume_run(run.id, f"p{n}", FAR) for n in range(8))
    )
    assert won.count(True) == 1
    found = await two.stores[0].run(run.id)
    assert found is not None
    assert found.process == f"p{won.index(True)}"


async def test_a_run_settles_once_whoever_settles_it(two: Two) -> None:
    run = await created(two.stores[0])
    won = await asyncio.gather(*(settle(two.stores[n % 2], run, "stopped") for n in range(8)))
    assert won.count(True) == 1
    assert [m.body for m in await two.stores[0].messages(run.thread_id)] == [USER, ANSWER]


@pytest.mark.timeout(120)
async def test_a_run_that_ends_and_one_that_begins_number_their_messages_in_turn(two: Two) -> None:
    a, b = two.stores
    for _ in range(ROUNDS):
        run = await created(a)
        thread = await a.thread(run.thread_id)
        assert thread is not None
        nxt = a_run(thread)

        await asyncio.gather(settle(a, run, "completed"), _insist(b, nxt))
        messages = await a.messages(thread.id)
        assert [m.seq for m in messages] == [1, 2, 3]
        assert [m.run_id for m in messages] == [run.id, run.id, nxt.id]


@pytest.mark.timeout(120)
async def test_a_thread_that_is_deleted_while_a_run_begins_is_gone_or_lives_whole(two: Two) -> None:
    a, b = two.stores
    met = set()
    for _ in range(ROUNDS):
        thread = await a_free_thread(a)
        run = a_run(thread)
        deleted, begun = await asyncio.gather(
            a.delete_threads([thread.id]), b.create_run(run, [USER]), return_exceptions=True
        )
        if deleted == 1:
            assert isinstance(begun, NotFound)
            assert await a.run(run.id) is None
            assert await a.messages(thread.id) == []
        else:
            assert (deleted, begun) == (0, True)
            assert len(await a.messages(thread.id)) == 3
        met.add(deleted)
    assert met <= {0, 1}


async def test_a_decision_is_won_by_one(two: Two) -> None:
    approval = an_approval()
    await two.journals[0].propose(approval)
    won = await asyncio.gather(
        *(
            two.journals[n % 2].decide(approval.id, status, f"o{n}", None, None, None)
            for n, status in enumerate(["approved", "rejected"] * 5)
        )
    )
    assert won.count(True) == 1
    found = await two.journals[1].approval(approval.id)
    assert found is not None
    assert found.decided_by == f"o{won.index(True)}"


async def test_an_execution_goes_ahead_in_one(two: Two) -> None:
    execution = an_execution()
    began = await asyncio.gather(*(two.journals[n % 2].begin(execution) for n in range(10)))
    assert began.count(None) == 1


async def test_orphans_are_claimed_by_one_of_those_who_start_at_once(two: Two) -> None:
    runs = [await created(two.stores[0]) for _ in range(10)]
    claimed = await asyncio.gather(
        *(store.claim_orphans(f"new{n}", time.time(), FAR) for n, store in enumerate(two.stores))
    )
    ids = [run.id for mine in claimed for run in mine]
    assert sorted(ids) == sorted(run.id for run in runs)
    assert {run.recoveries for mine in claimed for run in mine} == {1}


# Who is there


async def test_runs_of_a_process_that_is_there_are_left_to_it(two: Two) -> None:
    a, b = two.stores
    await a.claim_orphans("a", time.time(), FAR)
    thread = a_thread()
    run = a_run(thread, process="a")
    assert await a.create_run(run, [USER], thread)
    assert await b.claim_orphans("b", time.time(), FAR) == []
    assert await b.claim_expired("b", time.time(), FAR) == []
    await a.close()
    (claimed,) = await b.claim_orphans("b", time.time(), FAR)
    assert (claimed.id, claimed.process, claimed.recoveries) == (run.id, "b", 1)


async def test_runs_of_a_process_that_does_not_renew_are_taken_over(two: Two) -> None:
    a, b = two.stores
    await a.claim_orphans("a", time.time(), FAR)
    thread = a_thread()
    run = a_run(thread, process="a")
    assert await a.create_run(run, [USER], thread)
    await a.renew_leases("a", time.time() + 60)
    assert await b.claim_expired("b", time.time(), FAR) == []
    (claimed,) = await b.claim_expired("b", time.time() + 61, FAR)
    assert (claimed.id, claimed.process) == (run.id, "b")
    assert await b.claim_expired("b", time.time() + 61, FAR) == []
    assert await a.renew_leases("a", FAR) == []


async def test_a_start_waits_a_moment_only_for_a_process_that_is_there(two: Two) -> None:
    a, b = two.stores
    await a.claim_orphans("a", time.time(), FAR)
    thread = a_thread()
    await a.create_run(a_run(thread, process="a"), [USER], thread)
    started = time.monotonic()
    await b.claim_orphans("b", time.time(), FAR)
    assert time.monotonic() - started >= GRACE_S


# Cancellations


async def test_a_write_is_over_before_its_cancelled_caller_goes_on(store: PostgresStore) -> None:
    run = await created(store)

    async def work() -> str:
        await store.save_run(run.id, Addition({"steps": 1}, [ANSWER], events(1)))
        saved.set()
        await asyncio.get_running_loop().create_future()
        return "not reached"

    saved = asyncio.Event()
    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert saved.is_set()
    assert [m.body for m in await store.messages(run.thread_id)] == [USER, ANSWER]


async def test_a_timeout_during_a_write_is_told_after_it(store: PostgresStore) -> None:
    release = asyncio.Event()

    async def write() -> str:
        await release.wait()
        return "written"

    async def limited() -> None:
        async with asyncio.timeout(0.01):
            results.append(await uninterrupted(write()))
            await asyncio.get_running_loop().create_future()

    asyncio.get_running_loop().call_later(0.05, release.set)
    results: list[str] = []
    with pytest.raises(TimeoutError):
        await limited()
    assert results == ["written"]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_cancelled_reader_leaves_at_once_and_its_connection_is_used_again(
    store: PostgresStore,
) -> None:
    run = await created(store)
    for _ in range(30):
        task = asyncio.create_task(store.run(run.id))
        await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert await store.run(run.id) == run


# Texts


async def test_texts_with_a_nul_are_stored_and_asked_for(two: Two) -> None:
    store, journal = two.stores[0], two.journals[0]
    thread = ThreadRecord(new_id("thr"), OWNER, "a\0b", 1.0, 1.0)
    body = {"role": "user", "content": "a\0b ä \U0001f600"}
    assert await store.create_run(a_run(thread), [body], thread)
    assert [m.body for m in await store.messages(thread.id)] == [body]
    found = await store.thread(thread.id)
    assert found is not None
    assert found.title == "a\ufffdb"
    assert await store.thread("thr_\0") is None
    assert await store.run("run_\0") is None
    approval = an_approval()
    await journal.propose(approval)
    assert await journal.decide(approval.id, "rejected", OWNER, "no\0", None, None)


async def test_a_number_beyond_every_event_finds_none(store: PostgresStore) -> None:
    run = await created(store)
    await store.append_events(run.id, events(1, 2))
    assert await store.events(run.id, 2**40) == []
    assert await status_of(store, run) == "running"
