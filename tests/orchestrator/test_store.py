"""What every store and journal keeps to. A new implementation joins by a parameter here."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import NotFound, StoreError
from orchestrator.store.interface import Journal, Store
from orchestrator.store.journal import SqliteJournal
from orchestrator.store.postgres.opening import open_postgres
from orchestrator.store.records import (
    Addition,
    ApprovalRecord,
    EventBlock,
    ExecutionRecord,
    RunRecord,
    ThreadRecord,
    new_id,
)
from orchestrator.store.sqlite import SqliteStore

OWNER = "owner"
USER = {"role": "user", "content": "Hello"}
ANSWER = {"role": "assistant", "content": "Hi"}
FAR = 4e9


@pytest.fixture(params=["sqlite", "postgres"])
async def stores(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[Store, Journal]]:
    opened: tuple[Store, Journal]
    if request.param == "sqlite":
        opened = SqliteStore(tmp_path / "variet.db"), SqliteJournal(tmp_path / "journal.db")
    else:
        opened = await open_postgres(request.getfixturevalue("database_url"))
    yield opened
    for one in opened:
        await one.close()


@pytest.fixture
def store(stores: tuple[Store, Journal]) -> Store:
    return stores[0]


@pytest.fixture
def journal(stores: tuple[Store, Journal]) -> Journal:
    return stores[1]


def a_thread(owner: str = OWNER, touched: float = 1.0) -> ThreadRecord:
    return ThreadRecord(new_id("thr"), owner, "Hello", touched, touched)


def a_run(thread: ThreadRecord, status: Any = "running", process: str = "p1") -> RunRecord:
    request = {"chat": {"message": "Hello"}}
    now = thread.updated_at
    return RunRecord(
        new_id("run"), thread.id, thread.owner, status, request, now, now, process, FAR
    )


def events(*ids: int) -> EventBlock:
    bodies = [{"id": i, "type": "token", "data": {"text": f"t{i}"}} for i in ids]
    return EventBlock(ids[0], ids[-1], bodies)


async def created(store: Store, status: Any = "running", owner: str = OWNER) -> RunRecord:
    thread = a_thread(owner)
    run = a_run(thread, status)
    assert await store.create_run(run, [USER], thread)
    return run


async def status_of(store: Store, run: RunRecord) -> str:
    found = await store.run(run.id)
    assert found is not None
    return found.status


async def settle(store: Store, run: RunRecord, status: Any, expected: Any = "running") -> bool:
    return await store.settle_run(run.id, expected, status, Addition({}, [ANSWER]), {"a": 1})


# Threads


async def test_a_thread_comes_with_its_first_run(store: Store) -> None:
    run = await created(store)
    thread = await store.thread(run.thread_id)
    assert thread is not None
    assert (thread.owner, thread.title) == (OWNER, "Hello")
    assert [m.body for m in await store.messages(thread.id)] == [USER]
    assert await store.run(run.id) == run


async def test_a_thread_and_a_run_belong_to_their_owner(store: Store) -> None:
    run = await created(store)
    assert await store.thread(run.thread_id, "another") is None
    assert await store.run(run.id, "another") is None
    assert await store.threads("another", 10) == []
    assert await store.runs("another", 10) == []
    assert await store.run(run.id, OWNER) == run


async def test_threads_and_runs_are_listed_newest_first_in_pages(store: Store) -> None:
    made = [await created(store) for _ in range(3)]
    runs = await store.runs(OWNER, 2)
    assert [r.id for r in runs] == sorted((r.id for r in made), reverse=True)[:2]
    rest = await store.runs(OWNER, 2, runs[-1].id)
    assert [r.id for r in rest] == [min(r.id for r in made)]
    threads = await store.threads(OWNER, 2)
    assert len(threads) == 2
    assert len(await store.threads(OWNER, 5, threads[-1].id)) == 1


async def test_deleting_a_thread_deletes_all_that_is_its_own(store: Store) -> None:
    run = await created(store)
    other = await created(store)
    await store.append_events(run.id, events(1, 2))
    await store.add_exchange(run.id, b"question", b"answer", 1.5)
    assert await store.run_ids([run.thread_id]) == [run.id]
    await settle(store, run, "completed")
    assert await store.delete_threads([run.thread_id, "thr_unknown"]) == 1
    assert await store.thread(run.thread_id) is None
    assert await store.run(run.id) is None
    assert await store.messages(run.thread_id) == []
    assert await store.events(run.id, 0) == []
    assert await store.exchanges(run.id) == []
    assert await store.run(other.id) == other


@pytest.mark.parametrize("status", ["queued", "running", "awaiting_approval"])
async def test_a_thread_with_an_unfinished_run_is_neither_idle_nor_deleted(
    store: Store, status: Any
) -> None:
    run = await created(store, status)
    assert await store.idle_threads(FAR) == []
    assert await store.delete_threads([run.thread_id]) == 0
    assert await store.run(run.id) is not None


async def test_idle_threads_are_those_not_touched_since(store: Store) -> None:
    run = await created(store)
    await settle(store, run, "completed")
    assert await store.idle_threads(2.0) == []
    assert await store.idle_threads(FAR, "another") == []
    assert await store.idle_threads(FAR, OWNER) == [run.thread_id]


async def test_thousands_of_threads_can_be_named_at_once(store: Store) -> None:
    run = await created(store)
    names = [f"thr_{n}" for n in range(40_000)]
    assert await store.run_ids([*names, run.thread_id]) == [run.id]


# Runs


async def test_one_run_lives_on_a_thread(store: Store) -> None:
    run = await created(store)
    thread = await store.thread(run.thread_id)
    assert thread is not None
    second = a_run(thread)
    assert not await store.create_run(second, [USER])
    assert await store.run(second.id) is None
    assert len(await store.messages(thread.id)) == 1
    assert await store.live_run(thread.id) == run
    assert await settle(store, run, "awaiting_approval")
    assert not await store.create_run(second, [USER])
    assert await store.resume_run(run.id, "p1", FAR)
    assert await settle(store, run, "completed")
    assert await store.live_run(thread.id) is None
    assert await store.create_run(second, [USER])


async def test_a_run_on_a_deleted_thread_is_not_created(store: Store) -> None:
    with pytest.raises(NotFound, match="thr_gone"):
        await store.create_run(a_run(replace(a_thread(), id="thr_gone")), [USER])


async def test_queued_runs_start_one_at_a_time_with_their_message(store: Store) -> None:
    run = await created(store)
    thread = await store.thread(run.thread_id)
    assert thread is not None
    first, second = a_run(thread, "queued"), a_run(thread, "queued")
    assert await store.create_run(first)
    assert await store.create_run(second)
    assert await store.queued_threads() == [thread.id]
    assert [r.id for r in await store.queued_runs(thread.id)] == sorted([first.id, second.id])
    assert not await store.start_run(first.id, "p2", FAR, [USER])
    assert len(await store.messages(thread.id)) == 1
    await settle(store, run, "completed")
    assert await store.start_run(first.id, "p2", FAR, [USER])
    assert not await store.start_run(first.id, "p2", FAR, [USER])
    assert not await store.start_run(second.id, "p2", FAR, [USER])
    started = await store.run(first.id)
    assert started is not None
    assert (started.status, started.process, started.lease_until) == ("running", "p2", FAR)
    assert [(m.run_id, m.body) for m in await store.messages(thread.id)] == [
        (run.id, USER),
        (run.id, ANSWER),
        (first.id, USER),
    ]


async def test_only_the_expected_status_changes(store: Store) -> None:
    run = await created(store)
    assert not await store.resume_run(run.id, "p2", FAR)
    assert not await settle(store, run, "stopped", expected="awaiting_approval")
    assert await settle(store, run, "awaiting_approval")
    assert not await settle(store, run, "completed")
    assert await store.resume_run(run.id, "p2", FAR)
    assert not await store.resume_run(run.id, "p2", FAR)
    assert await settle(store, run, "stopped")
    assert await status_of(store, run) == "stopped"
    assert not await settle(store, run, "failed")
    assert not await settle(store, replace(run, id="run_unknown"), "failed")


async def test_a_step_of_a_run_is_stored_at_once(store: Store) -> None:
    run = await created(store)
    await store.save_run(run.id, Addition({"steps": 1}, [ANSWER, USER], events(1, 2, 3)))
    found = await store.run(run.id)
    assert found is not None
    assert found.progress == {"steps": 1}
    assert [m.body for m in await store.messages(run.thread_id)] == [USER, ANSWER, USER]
    assert [m.seq for m in await store.messages(run.thread_id)] == [1, 2, 3]
    assert await store.last_event(run.id) == 3


async def test_a_step_that_fails_leaves_nothing_behind(store: Store) -> None:
    run = await created(store)
    await store.append_events(run.id, events(1, 2))
    clash = Addition({"steps": 9}, [ANSWER], events(1))
    with pytest.raises(Exception, match=r"UNIQUE|unique|duplicate"):
        await store.save_run(run.id, clash)
    with pytest.raises(Exception, match=r"UNIQUE|unique|duplicate"):
        await store.settle_run(run.id, "running", "completed", clash, {})
    assert await store.run(run.id) == run
    assert len(await store.messages(run.thread_id)) == 1


async def test_a_step_of_an_unknown_run_is_refused(store: Store) -> None:
    with pytest.raises(NotFound, match="run_gone"):
        await store.save_run("run_gone", Addition({}, [ANSWER]))


async def test_settling_stores_response_messages_and_events(store: Store) -> None:
    run = await created(store)
    addition = Addition({"answer": "Hi"}, [ANSWER], events(4, 5))
    assert await store.settle_run(run.id, "running", "completed", addition, {"answer": "Hi"})
    found = await store.run(run.id)
    assert found is not None
    assert (found.status, found.response) == ("completed", {"answer": "Hi"})
    assert [m.body for m in await store.messages(run.thread_id)] == [USER, ANSWER]
    assert [e["id"] for e in await store.events(run.id, 0)] == [4, 5]


async def test_resting_runs_are_those_that_await_an_approval(store: Store) -> None:
    resting = await created(store, "awaiting_approval")
    await created(store)
    await created(store, "queued")
    assert [r.id for r in await store.resting_runs()] == [resting.id]


# Leases


async def test_a_new_process_takes_over_what_was_running(store: Store) -> None:
    run = await created(store)
    resting = await created(store, "awaiting_approval")
    (claimed,) = await store.claim_orphans("p2", time.time(), FAR)
    assert (claimed.id, claimed.process, claimed.recoveries) == (run.id, "p2", 1)
    (again,) = await store.claim_orphans("p2", time.time(), FAR)
    assert again.recoveries == 1
    assert await status_of(store, resting) == "awaiting_approval"


async def test_a_run_that_was_handed_over_does_not_count_as_crashed(store: Store) -> None:
    run = await created(store)
    await store.release(run.id)
    (claimed,) = await store.claim_orphans("p2", time.time(), FAR)
    assert (claimed.id, claimed.recoveries) == (run.id, 0)


async def test_renewing_tells_which_runs_were_asked_to_stop(store: Store) -> None:
    run, other = await created(store), await created(store)
    await store.request_stop(other.id)
    assert await store.renew_leases("p1", FAR + 1) == [other.id]
    assert await store.renew_leases("p2", FAR + 2) == []
    renewed = await store.run(run.id)
    assert renewed is not None
    assert renewed.lease_until == FAR + 1


# Events and exchanges


async def test_events_are_read_after_a_number(store: Store) -> None:
    run = await created(store)
    assert await store.last_event(run.id) == 0
    await store.append_events(run.id, events(1, 2, 3))
    await store.append_events(run.id, events(100_004, 100_005))
    assert [e["id"] for e in await store.events(run.id, 2)] == [3, 100_004, 100_005]
    assert await store.events(run.id, 100_005) == []
    assert (await store.events(run.id, 0))[0] == {"id": 1, "type": "token", "data": {"text": "t1"}}


async def test_exchanges_are_kept_byte_for_byte_and_pruned_by_run(store: Store) -> None:
    old, new = await created(store), await created(store)
    old, new = sorted([old, new], key=lambda run: run.id)
    for run in (old, new):
        await store.add_exchange(run.id, b"\x00question", b"answer\xff", 1.5)
    await store.add_exchange(new.id, b"again", b"", 0.5)
    assert await store.exchanges(new.id) == [
        (1, b"\x00question", b"answer\xff", 1.5),
        (2, b"again", b"", 0.5),
    ]
    await store.prune_exchanges(1)
    assert await store.exchanges(old.id) == []
    assert len(await store.exchanges(new.id)) == 2
    await store.prune_exchanges(0)
    assert await store.exchanges(new.id) == []


async def test_what_was_written_can_be_brought_to_the_disk(store: Store) -> None:
    await created(store)
    await store.sync()


# The journal


def an_approval(run_id: str = "run_1", owner: str = OWNER, expires: float = FAR) -> ApprovalRecord:
    return ApprovalRecord(
        id=new_id("appr"),
        run_id=run_id,
        thread_id="thr_1",
        owner=owner,
        tool_call_id=new_id("call"),
        tool="change",
        arguments={"text": "ä"},
        arguments_hash="0" * 64,
        reason="change may destroy something",
        status="pending",
        created_at=1.0,
        expires_at=expires,
    )


def an_execution(run_id: str = "run_1") -> ExecutionRecord:
    return ExecutionRecord(new_id("call"), run_id, "change", "0" * 64, "started", 1.0)


async def decide(journal: Journal, approval: ApprovalRecord, status: str) -> bool:
    return await journal.decide(approval.id, status, OWNER, "why not", None, None)


async def test_an_approval_is_kept_as_it_was_proposed(journal: Journal) -> None:
    approval = an_approval()
    assert await journal.propose(approval) == approval
    assert await journal.approval(approval.id) == approval
    assert await journal.approval(approval.id, OWNER) == approval
    assert await journal.approval(approval.id, "another") is None
    assert await journal.approvals(OWNER, 10) == [approval]
    assert await journal.approvals("another", 10) == []
    assert await journal.approvals_of("run_1") == [approval]


async def test_a_call_is_proposed_once_and_the_first_proposal_stands(journal: Journal) -> None:
    first = an_approval()
    await journal.propose(first)
    await decide(journal, first, "approved")
    second = replace(an_approval(), tool_call_id=first.tool_call_id)
    standing = await journal.propose(second)
    assert (standing.id, standing.status) == (first.id, "approved")
    assert len(await journal.approvals_of("run_1")) == 1


async def test_of_many_decisions_one_wins(journal: Journal) -> None:
    approval = an_approval()
    await journal.propose(approval)
    won = await asyncio.gather(
        *(decide(journal, approval, status) for status in ["approved", "rejected"] * 5)
    )
    assert won.count(True) == 1
    found = await journal.approval(approval.id)
    assert found is not None
    assert found.status == ("approved" if won.index(True) % 2 == 0 else "rejected")
    assert (found.decided_by, found.comment) == (OWNER, "why not")
    assert await journal.approvals(OWNER, 10) == []
    assert not await journal.decide("appr_unknown", "approved", OWNER, None, None, None)


async def test_a_decision_may_change_the_arguments(journal: Journal) -> None:
    approval = an_approval()
    await journal.propose(approval)
    assert await journal.decide(approval.id, "approved", OWNER, None, {"text": "b"}, "1" * 64)
    found = await journal.approval(approval.id)
    assert found is not None
    assert (found.arguments, found.arguments_hash) == ({"text": "b"}, "1" * 64)


async def test_overdue_approvals_are_pending_ones_past_their_time(journal: Journal) -> None:
    late, early = an_approval(expires=10), an_approval(expires=30)
    decided = an_approval(expires=10)
    for approval in (late, early, decided):
        await journal.propose(approval)
    await decide(journal, decided, "rejected")
    assert await journal.overdue(20) == [late]


async def test_an_execution_begins_once(journal: Journal) -> None:
    execution = an_execution()
    began = await asyncio.gather(*(journal.begin(execution) for _ in range(5)))
    assert began.count(None) == 1
    assert [e for e in began if e is not None] == [execution] * 4


async def test_an_execution_ends_once(journal: Journal) -> None:
    execution = an_execution()
    await journal.begin(execution)
    await journal.finish(execution.tool_call_id, "finished", {"result": {"n": 1}})
    await journal.finish(execution.tool_call_id, "indeterminate", {"error": {}})
    (found,) = await journal.executions_of("run_1")
    assert (found.status, found.outcome) == ("finished", {"result": {"n": 1}})
    assert await journal.begin(execution) == found


async def test_a_write_goes_on_although_its_caller_is_cancelled(journal: Journal) -> None:
    executions = [an_execution() for _ in range(20)]
    tasks = [asyncio.create_task(journal.begin(e)) for e in executions]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert len(await journal.executions_of("run_1")) == 20


async def test_forgetting_a_run_forgets_its_approvals_and_executions(journal: Journal) -> None:
    for run_id in ("run_1", "run_2"):
        await journal.propose(an_approval(run_id))
        await journal.begin(an_execution(run_id))
    await journal.forget(["run_1"])
    assert await journal.approvals_of("run_1") == []
    assert await journal.executions_of("run_1") == []
    assert len(await journal.approvals_of("run_2")) == 1
    assert len(await journal.executions_of("run_2")) == 1


# The files


async def test_state_survives_closing(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "variet.db")
    run = await created(store)
    await store.close()
    again = SqliteStore(tmp_path / "variet.db")
    assert await again.run(run.id) == run
    await again.close()


async def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "variet.db")
    with pytest.raises(StoreError, match="in use by another") as caught:
        SqliteStore(tmp_path / "variet.db")
    assert caught.value.code == "store_in_use"
    await store.close()
    await SqliteStore(tmp_path / "variet.db").close()


@pytest.mark.parametrize("kind", [SqliteStore, SqliteJournal])
def test_a_newer_schema_is_refused(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "some.db"
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version=999")
    db.close()
    with pytest.raises(StoreError, match="schema version 999") as caught:
        kind(path)
    assert (caught.value.code, str(path) in caught.value.message) == ("store_version", True)


@pytest.mark.parametrize("kind", [SqliteStore, SqliteJournal])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "some.db"
    path.write_bytes(b"This is no database." * 500)
    with pytest.raises(StoreError, match="is damaged") as caught:
        kind(path)
    assert caught.value.code == "store_damaged"
    assert str(path) in caught.value.message
    assert "backup" in caught.value.remedy
    assert path.read_bytes().startswith(b"This is no database.")


async def read_all(path: Path) -> None:
    store = SqliteStore(path)
    try:
        for thread in await store.threads(OWNER, 100):
            await store.messages(thread.id)
    finally:
        await store.close()


async def test_damage_found_later_is_told_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "variet.db"
    store = SqliteStore(path)
    for _ in range(50):
        await created(store)
    await store.close()
    data = bytearray(path.read_bytes())
    data[8_192:] = os.urandom(len(data) - 8_192)
    path.write_bytes(data)
    with pytest.raises(StoreError) as caught:
        await read_all(path)
    assert caught.value.code == "store_damaged"


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError) as caught:
        SqliteStore(tmp_path / "variet.db")
    assert caught.value.code == "store_unwritable"
    tmp_path.chmod(0o700)


async def test_a_file_that_another_program_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.store.database.BUSY_TIMEOUT_S", 0)
    store = SqliteStore(tmp_path / "variet.db")
    other = sqlite3.connect(tmp_path / "variet.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="is locked") as caught:
        await created(store)
    assert caught.value.code == "store_busy"
    other.execute("ROLLBACK")
    await created(store)
    other.close()
    await store.close()


def test_a_folder_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError) as caught:
        SqliteStore(tmp_path / "file" / "variet.db")
    assert caught.value.code == "store_unwritable"


FILL = """
import asyncio, resource, sys
from pathlib import Path
from contracts.errors import StoreError
from tests.orchestrator.test_store import Addition, SqliteJournal, SqliteStore, a_run, a_thread
from tests.orchestrator.test_store import an_approval

async def fill() -> None:
    folder = Path(sys.argv[1])
    store, journal = SqliteStore(folder / "variet.db"), SqliteJournal(folder / "journal.db")
    thread = a_thread()
    run = a_run(thread)
    await store.create_run(run, [], thread)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    body = {"role": "user", "content": "x" * 5_000}
    written = proposed = 0
    try:
        while True:
            await store.save_run(run.id, Addition({"written": written + 2}, [body, body]))
            written += 2
    except StoreError as error:
        print(error.code, error.message, error.remedy, sep="|")
    try:
        while True:
            approval = an_approval()
            approval.arguments["text"] = "x" * 5_000
            await journal.propose(approval)
            proposed += 1
    except StoreError as error:
        print(error.code, error.message, error.remedy, sep="|")
    print(written, proposed, run.id, thread.id, sep="|")

asyncio.run(fill())
"""


async def test_a_full_disk_is_told_and_harms_nothing_that_was_stored(tmp_path: Path) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", FILL, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    for_store, for_journal, counts = (line.split("|") for line in done.stdout.splitlines())
    for name, (code, message, remedy) in (("variet", for_store), ("journal", for_journal)):
        assert code == "store_full"
        assert str(tmp_path / f"{name}.db") in message
        assert "Free space" in remedy
    written, proposed, run_id, thread_id = counts
    store, journal = SqliteStore(tmp_path / "variet.db"), SqliteJournal(tmp_path / "journal.db")
    assert len(await store.messages(thread_id)) == int(written) > 0
    run = await store.run(run_id)
    assert run is not None
    assert run.progress == {"written": int(written)}
    assert len(await journal.approvals_of("run_1")) == int(proposed) > 0
    await store.save_run(run_id, Addition({}, [USER]))
    await store.close()
    await journal.close()
    for name in ("variet", "journal"):
        db = sqlite3.connect(tmp_path / f"{name}.db")
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        db.close()


async def test_checkpoints_keep_the_write_ahead_log_small(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "variet.db")
    wal = tmp_path / "variet.db-wal"
    run = await created(store)
    body = {"role": "user", "content": "x" * 10_000}
    sizes = []
    for n in range(60):
        await store.save_run(run.id, Addition({"n": n}, [body] * 5))
        await store.checkpoint()
        sizes.append(wal.stat().st_size)
    assert max(sizes[30:]) <= 2 * max(sizes[:30])
    assert max(sizes) < 1_000_000
    await store.close()
    assert not wal.exists() or wal.stat().st_size == 0
