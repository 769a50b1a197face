"""Connections to PostgreSQL that break in the middle: each write is done once, or not at all.

A proxy breaks them. Every write is tried with a break before it arrives and with one between its
COMMIT and the answer, after which nobody was told whether it was done.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from contracts.errors import StoreUnavailable
from orchestrator.store.postgres.journal import PostgresJournal
from orchestrator.store.postgres.opening import open_postgres
from orchestrator.store.postgres.store import PostgresStore
from orchestrator.store.records import Addition, RunRecord
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
from tests.support.postgres_proxy import Cut, Proxy, proxy

SHORT_S = 0.5
CUTS = pytest.mark.parametrize("when", list(Cut))


@dataclass
class Link:
    """Stores that reach their database through a proxy."""

    store: PostgresStore
    journal: PostgresJournal
    proxy: Proxy

    def impatient(self) -> None:
        """Whoever waits for the server waits half a second."""
        for connections in (self.store._db, self.journal._db):
            connections.patience_s = SHORT_S

    async def lost(self, statement: str, when: Cut, write: Awaitable[object]) -> None:
        """Try a write whose connection breaks while the server then stays away; it comes back."""
        self.impatient()
        self.proxy.cut(statement, when, stay_away=True)
        with pytest.raises(StoreUnavailable) as caught:
            await write
        assert caught.value.code == "store_unreachable"
        assert self.proxy.cuts == 1
        self.proxy.refusing = False


@pytest.fixture
async def link(database_url: str) -> AsyncIterator[Link]:
    async with proxy(database_url) as between:
        store, journal = await open_postgres(between.url)
        yield Link(store, journal, between)
        await store.close()
        await journal.close()


# One break: the write is told as if nothing had happened


@CUTS
async def test_a_run_is_created_once(link: Link, when: Cut) -> None:
    thread = a_thread()
    run = a_run(thread)
    link.proxy.cut("INSERT INTO runs", when)
    assert await link.store.create_run(run, [USER], thread)
    assert link.proxy.cuts == 1
    assert await link.store.run(run.id) == run
    assert [m.body for m in await link.store.messages(thread.id)] == [USER]


@CUTS
async def test_a_second_run_on_a_thread_is_created_once(link: Link, when: Cut) -> None:
    first = await created(link.store)
    assert await settle(link.store, first, "completed")
    thread = await link.store.thread(first.thread_id)
    assert thread is not None
    run = a_run(thread)
    link.proxy.cut("INSERT INTO runs", when)
    assert await link.store.create_run(run, [USER])
    assert not await link.store.create_run(a_run(thread), [USER])
    assert [m.body for m in await link.store.messages(thread.id)] == [USER, ANSWER, USER]


@CUTS
async def test_a_queued_run_starts_once(link: Link, when: Cut) -> None:
    run = await created(link.store, "queued")
    link.proxy.cut("UPDATE runs SET status = 'running'", when)
    assert await link.store.start_run(run.id, "p1", FAR, [USER])
    assert not await link.store.start_run(run.id, "p1", FAR, [USER])
    assert [m.body for m in await link.store.messages(run.thread_id)] == [USER, USER]


@CUTS
async def test_a_resting_run_resumes_once(link: Link, when: Cut) -> None:
    run = await created(link.store, "awaiting_approval")
    link.proxy.cut("UPDATE runs SET status = 'running'", when)
    assert await link.store.resume_run(run.id, "p1", FAR)
    assert not await link.store.resume_run(run.id, "p1", FAR)


@CUTS
async def test_a_step_is_stored_once(link: Link, when: Cut) -> None:
    run = await created(link.store)
    link.proxy.cut("UPDATE runs SET progress", when)
    await link.store.save_run(run.id, Addition({"steps": 1}, [ANSWER], events(1, 2)))
    assert [m.body for m in await link.store.messages(run.thread_id)] == [USER, ANSWER]
    assert [e["id"] for e in await link.store.events(run.id, 0)] == [1, 2]


@CUTS
async def test_a_run_settles_once(link: Link, when: Cut) -> None:
    run = await created(link.store)
    link.proxy.cut("UPDATE runs SET status", when)
    addition = Addition({}, [ANSWER], events(1, 2))
    assert await link.store.settle_run(run.id, "running", "completed", addition, {"a": 1})
    assert not await settle(link.store, run, "failed")
    assert await status_of(link.store, run) == "completed"
    assert [m.body for m in await link.store.messages(run.thread_id)] == [USER, ANSWER]


@CUTS
async def test_a_block_of_events_is_stored_once(link: Link, when: Cut) -> None:
    run = await created(link.store)
    link.proxy.cut("INSERT INTO events", when)
    await link.store.append_events(run.id, events(1, 2))
    assert [e["id"] for e in await link.store.events(run.id, 0)] == [1, 2]


@CUTS
async def test_an_exchange_is_kept_once(link: Link, when: Cut) -> None:
    run = await created(link.store)
    link.proxy.cut("INSERT INTO exchanges", when)
    await link.store.add_exchange(run.id, b"question", b"answer", 1.5)
    assert await link.store.exchanges(run.id) == [(1, b"question", b"answer", 1.5)]


@CUTS
async def test_a_thread_is_deleted_whole(link: Link, when: Cut) -> None:
    run = await created(link.store)
    await settle(link.store, run, "completed")
    link.proxy.cut("DELETE FROM threads", when)
    await link.store.delete_threads([run.thread_id])
    assert await link.store.thread(run.thread_id) is None
    assert await link.store.run(run.id) is None


@CUTS
async def test_a_run_is_claimed_once(link: Link, when: Cut) -> None:
    run = await created(link.store)
    link.proxy.cut("UPDATE runs SET process", when)
    (claimed,) = await link.store.claim_expired("p2", FAR + 1, FAR + 2)
    assert (claimed.id, claimed.process, claimed.recoveries) == (run.id, "p2", 1)
    assert await link.store.claim_expired("p2", FAR + 3, FAR + 4) == []


@CUTS
async def test_an_approval_is_proposed_once(link: Link, when: Cut) -> None:
    approval = an_approval()
    link.proxy.cut("INSERT INTO approvals", when)
    assert await link.journal.propose(approval) == approval
    assert await link.journal.approvals_of("run_1") == [approval]


@CUTS
async def test_a_decision_is_told_to_be_won_by_who_won_it(link: Link, when: Cut) -> None:
    approval = an_approval()
    await link.journal.propose(approval)
    link.proxy.cut("UPDATE approvals", when)
    assert await link.journal.decide(approval.id, "approved", OWNER, None, {"text": "b"}, "1" * 64)
    assert not await link.journal.decide(approval.id, "rejected", OWNER, None, None, None)
    (found,) = await link.journal.approvals_of("run_1")
    assert (found.status, found.arguments) == ("approved", {"text": "b"})


@CUTS
async def test_a_decision_is_told_to_be_lost_by_who_lost_it(link: Link, when: Cut) -> None:
    approval = an_approval()
    await link.journal.propose(approval)
    assert await link.journal.decide(approval.id, "rejected", OWNER, None, None, None)
    link.proxy.cut("UPDATE approvals", when)
    assert not await link.journal.decide(approval.id, "approved", OWNER, None, None, None)
    (found,) = await link.journal.approvals_of("run_1")
    assert found.status == "rejected"


@CUTS
async def test_an_execution_goes_ahead_once(link: Link, when: Cut) -> None:
    execution = an_execution()
    link.proxy.cut("INSERT INTO executions", when)
    assert await link.journal.begin(execution) is None
    assert await link.journal.begin(execution) == execution


@CUTS
async def test_an_execution_of_an_earlier_process_does_not_go_ahead(link: Link, when: Cut) -> None:
    execution = an_execution()
    assert await link.journal.begin(execution) is None
    link.proxy.cut("INSERT INTO executions", when)
    assert await link.journal.begin(execution) == execution


@CUTS
async def test_an_execution_finishes_once(link: Link, when: Cut) -> None:
    execution = an_execution()
    await link.journal.begin(execution)
    link.proxy.cut("UPDATE executions", when)
    await link.journal.finish(execution.tool_call_id, "finished", {"result": 1})
    await link.journal.finish(execution.tool_call_id, "indeterminate", {"error": {}})
    (found,) = await link.journal.executions_of("run_1")
    assert (found.status, found.outcome) == ("finished", {"result": 1})


async def test_connections_that_broke_while_idle_are_not_noticed(link: Link) -> None:
    runs = await asyncio.gather(*(created(link.store) for _ in range(8)))
    link.proxy.break_all()
    found = await asyncio.gather(*(link.store.run(run.id) for run in runs))
    assert found == list(runs)


# The server stays away longer than a caller waits


@CUTS
async def test_a_run_that_was_refused_for_a_lost_server_leaves_no_trace(
    link: Link, when: Cut
) -> None:
    thread = a_thread()
    run = a_run(thread)
    creating = link.store.create_run(run, [USER], thread)
    await link.lost("INSERT INTO runs", when, creating)
    assert await link.store.renew_leases("p1", FAR) == []
    assert await link.store.run(run.id) is None
    assert await link.store.thread(thread.id) is None


@CUTS
async def test_a_message_that_was_refused_for_a_lost_server_leaves_its_thread_free(
    link: Link, when: Cut
) -> None:
    first = await created(link.store)
    await settle(link.store, first, "completed")
    thread = await link.store.thread(first.thread_id)
    assert thread is not None
    await link.lost("INSERT INTO runs", when, link.store.create_run(a_run(thread), [USER]))
    await link.store.renew_leases("p1", FAR)
    assert await link.store.live_run(thread.id) is None
    assert [m.body for m in await link.store.messages(thread.id)] == [USER, ANSWER]
    assert await link.store.create_run(a_run(thread), [USER])


@CUTS
@pytest.mark.parametrize("status", ["queued", "awaiting_approval"])
async def test_a_run_that_perhaps_went_on_is_given_up_for_anybody_to_drive(
    link: Link, when: Cut, status: str
) -> None:
    run = await created(link.store, status)

    async def set_off() -> bool:
        if status == "queued":
            return await link.store.start_run(run.id, "p1", FAR, [USER])
        return await link.store.resume_run(run.id, "p1", FAR)

    await link.lost("UPDATE runs SET status = 'running'", when, set_off())
    await link.store.renew_leases("p1", FAR)
    claimed = await link.store.claim_expired("p1", time.time(), FAR)
    if when is Cut.BEFORE:
        assert claimed == []
        assert await status_of(link.store, run) == status
    else:
        assert [(r.id, r.process, r.recoveries) for r in claimed] == [(run.id, "p1", 0)]


@CUTS
async def test_a_step_that_was_perhaps_stored_does_not_keep_the_end_from_being_stored(
    link: Link, when: Cut
) -> None:
    run = await created(link.store)
    step = Addition({"steps": 1}, [ANSWER], events(1, 2))
    await link.lost("UPDATE runs SET progress", when, link.store.save_run(run.id, step))
    said = [m.body for m in await link.store.messages(run.thread_id)]
    assert said == ([USER] if when is Cut.BEFORE else [USER, ANSWER])
    last = Addition({"steps": 1}, [], events(1, 2, 3))
    assert await link.store.settle_run(run.id, "running", "failed", last, {})
    assert [e["id"] for e in await link.store.events(run.id, 0)] == [1, 2, 3]


@CUTS
async def test_events_that_were_perhaps_stored_are_stored_again_with_those_that_follow(
    link: Link, when: Cut
) -> None:
    run = await created(link.store)
    await link.lost("INSERT INTO events", when, link.store.append_events(run.id, events(1, 2)))
    await link.store.append_events(run.id, events(1, 2, 3))
    assert [e["id"] for e in await link.store.events(run.id, 0)] == [1, 2, 3]


@CUTS
async def test_an_end_that_was_perhaps_stored_stands_when_it_is_stored_again(
    link: Link, when: Cut
) -> None:
    run = await created(link.store)
    addition = Addition({}, [ANSWER], events(1, 2))

    def settling() -> Awaitable[bool]:
        return link.store.settle_run(run.id, "running", "completed", addition, {"a": 1})

    await link.lost("UPDATE runs SET status", when, settling())
    assert await settling() == (when is Cut.BEFORE)
    assert await status_of(link.store, run) == "completed"
    assert [m.body for m in await link.store.messages(run.thread_id)] == [USER, ANSWER]
    assert [e["id"] for e in await link.store.events(run.id, 0)] == [1, 2]


@CUTS
async def test_an_execution_of_which_nobody_knows_is_not_begun_again(link: Link, when: Cut) -> None:
    execution = an_execution()
    await link.lost("INSERT INTO executions", when, link.journal.begin(execution))
    written = await link.journal.executions_of("run_1")
    assert written == ([] if when is Cut.BEFORE else [execution])
    assert await link.journal.begin(execution) == (None if when is Cut.BEFORE else execution)


# A server that hangs


@pytest.mark.parametrize(
    "use",
    [
        lambda link, run: link.store.run(run.id),
        lambda link, run: link.store.save_run(run.id, Addition({}, [ANSWER])),
        lambda link, run: link.journal.begin(an_execution()),
    ],
)
async def test_a_server_that_hangs_holds_nobody_for_long(
    link: Link, use: Callable[[Link, RunRecord], Awaitable[object]]
) -> None:
    run = await created(link.store)
    await link.journal.executions_of(run.id)
    link.impatient()
    link.proxy.freeze()
    with pytest.raises(StoreUnavailable) as caught:
        async with asyncio.timeout(20):
            await use(link, run)
    assert caught.value.code == "store_unreachable"
    assert "postgresql://" not in str(caught.value)
    link.proxy.thaw()
    link.proxy.break_all()
    assert await link.store.run(run.id) is not None


async def test_more_callers_than_connections_wait_no_longer_than_one(link: Link) -> None:
    run = await created(link.store)
    link.impatient()
    link.proxy.freeze()
    callers = [asyncio.create_task(link.store.run(run.id)) for _ in range(50)]
    done, late = await asyncio.wait(callers, timeout=20)
    assert not late
    errors = [task.exception() for task in done]
    assert {type(error) for error in errors} == {StoreUnavailable}
    codes = {error.code for error in errors if isinstance(error, StoreUnavailable)}
    assert codes == {"store_unreachable", "store_busy"}
