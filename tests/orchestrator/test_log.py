"""The event log of a run: shown at once, stored in steps, never twice and never lost."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import StoreError
from orchestrator.agent import log as log_module
from orchestrator.agent.log import LoggedEvent, RunLog, stored_events
from orchestrator.store.records import EventBlock, RunRecord, ThreadRecord
from orchestrator.store.sqlite import SqliteStore

RUN = "run_1"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "variet.db")
    thread = ThreadRecord("thr_1", "owner", "t", 1.0, 1.0)
    run = RunRecord(RUN, "thr_1", "owner", "running", {}, 1.0, 1.0, "p1", 4e9)
    assert await store.create_run(run, [], thread)
    yield store
    await store.close()


@pytest.fixture
async def log(store: SqliteStore) -> AsyncIterator[RunLog]:
    log = RunLog(store, RUN)
    yield log
    log.close()


class Reader:
    """A follower that reads as far as it can."""

    def __init__(self, log: RunLog, after: int = 0) -> None:
        self.events: list[LoggedEvent | None] = []
        self.task = asyncio.create_task(self._read(log, after))

    async def _read(self, log: RunLog, after: int) -> None:
        async for event in log.follow(after):
            self.events.append(event)

    async def ids(self) -> list[int]:
        """What it has read once everything that was ready has run."""
        for _ in range(5):
            await asyncio.sleep(0)
        return [event.id for event in self.events if event]


def token(log: RunLog, text: str = "t") -> None:
    log.emit("token", {"text": text})


async def stored_ids(store: SqliteStore) -> list[int]:
    return [event.id for event in await stored_events(store, RUN, 0)]


async def test_followers_see_an_event_before_it_is_stored(store: SqliteStore, log: RunLog) -> None:
    readers = [Reader(log), Reader(log)]
    token(log)
    token(log)
    assert [await reader.ids() for reader in readers] == [[1, 2], [1, 2]]
    assert await stored_ids(store) == []
    await log.flush()
    assert await stored_ids(store) == [1, 2]
    log.close()
    await asyncio.gather(*(reader.task for reader in readers))


async def test_a_late_follower_gets_only_what_comes_after_its_number(log: RunLog) -> None:
    for _ in range(5):
        token(log)
    reader = Reader(log, after=3)
    assert await reader.ids() == [4, 5]
    token(log)
    assert await reader.ids() == [4, 5, 6]


async def test_a_follower_reads_from_the_store_what_an_earlier_drive_wrote(
    store: SqliteStore, log: RunLog
) -> None:
    for _ in range(3):
        token(log)
    await log.flush()
    log.close()
    second = RunLog(store, RUN, 100_003)
    token(second)
    await second.flush()
    token(second)
    reader = Reader(second, after=1)
    assert await reader.ids() == [2, 3, 100_004, 100_005]
    second.close()
    await reader.task
    assert await reader.ids() == [2, 3, 100_004, 100_005]


async def test_each_event_is_stored_once_however_often_it_is_flushed(
    store: SqliteStore, log: RunLog
) -> None:
    token(log)
    token(log)
    await asyncio.gather(*(log.flush() for _ in range(5)))
    token(log)
    await log.flush()
    await log.flush()
    assert await stored_ids(store) == [1, 2, 3]


async def test_a_paced_log_stores_tokens_by_itself(
    store: SqliteStore, log: RunLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "FLUSH_INTERVAL_S", 0)
    stored = asyncio.Event()
    append = store.append_events

    async def watched(run_id: str, block: EventBlock) -> None:
        await append(run_id, block)
        stored.set()

    monkeypatch.setattr(store, "append_events", watched)
    log.paced = True
    token(log)
    await asyncio.wait_for(stored.wait(), 5)
    assert await stored_ids(store) == [1]


async def test_the_end_is_shown_only_after_it_was_stored(store: SqliteStore, log: RunLog) -> None:
    reader = Reader(log)
    token(log)
    log.end({"status": "completed"})
    seen: list[list[int]] = []

    async def save(block: EventBlock | None) -> None:
        assert block is not None
        seen.append(await reader.ids())
        await store.append_events(RUN, block)

    await log.store_with(save)
    assert await reader.ids() == [1]
    log.close()
    await reader.task
    assert (seen, await reader.ids()) == ([[1]], [1, 2])
    assert await stored_ids(store) == [1, 2]


async def test_nothing_follows_the_end(store: SqliteStore, log: RunLog) -> None:
    log.end({"status": "completed"})
    token(log)
    await log.flush()
    log.close()
    token(log)
    await log.flush()
    assert await stored_ids(store) == [1]


async def test_an_end_that_could_not_be_stored_is_none(store: SqliteStore, log: RunLog) -> None:
    reader = Reader(log)
    token(log)
    log.end({"status": "completed"})

    async def full(_block: EventBlock | None) -> None:
        raise StoreError("store_full", "Full.", "Free space.")

    with pytest.raises(StoreError):
        await log.store_with(full)
    log.withdraw_end()
    log.close()
    await reader.task
    assert await reader.ids() == [1]
    log.end({"status": "completed"})
    await log.flush()
    assert await stored_ids(store) == [1, 3]


async def test_events_that_could_not_be_stored_are_stored_with_the_next_step(
    store: SqliteStore, log: RunLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = store.append_events

    async def full(*_: Any) -> None:
        raise StoreError("store_full", "Full.", "Free space.")

    monkeypatch.setattr(store, "append_events", full)
    token(log)
    with pytest.raises(StoreError):
        await log.flush()
    monkeypatch.setattr(store, "append_events", append)
    token(log)
    await log.flush()
    assert await stored_ids(store) == [1, 2]


async def test_a_quiet_log_proves_that_it_is_alive(
    log: RunLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "KEEPALIVE_S", 0.001)
    stream = log.follow()
    assert await anext(stream) is None
    token(log)
    event = await anext(stream)
    while event is None:
        event = await anext(stream)
    assert (event.id, event.type) == (1, "token")
    await stream.aclose()  # type: ignore[attr-defined]


async def test_an_event_on_the_wire_is_a_server_sent_event() -> None:
    assert LoggedEvent(7, "token", b"{}").sse() == b"id: 7\nevent: token\ndata: {}\n\n"
