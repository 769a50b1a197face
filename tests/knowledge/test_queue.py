import time
from pathlib import Path

import pytest

from contracts.errors import StoreError
from orchestrator.knowledge import queue
from orchestrator.knowledge.queue import MAX_ATTEMPTS, Queue


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1_000_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


def test_an_equal_job_that_waits_is_the_same_job(path: Path) -> None:
    jobs = Queue(path)
    first = jobs.put("k", {"n": 1})
    assert jobs.put("k", {"n": 1}) == first
    assert jobs.claim()
    assert jobs.put("k", {"n": 1}) != first
    jobs.close()


def test_a_job_is_given_to_one_worker_only_and_in_order(path: Path) -> None:
    one, two = Queue(path), Queue(path)
    for n in range(4):
        one.put(str(n), {"n": n})
    claimed = [worker.claim() for worker in (one, two, one, two, one)]
    assert [job.body["n"] if job else None for job in claimed] == [0, 1, 2, 3, None]
    one.close()
    two.close()


def test_a_job_whose_worker_dies_each_time_ends_dead(path: Path, clock: list[float]) -> None:
    job_id = ""
    for attempt in range(MAX_ATTEMPTS):
        worker = Queue(path)
        job_id = job_id or worker.put("poison", {})
        job = worker.claim()
        assert job
        assert job.attempts == attempt + 1
        worker.close()
        clock[0] += queue.LEASE + 1
        survivor = Queue(path)
        assert survivor.reap() == 1
        clock[0] += 300
        survivor.close()
    last = Queue(path)
    assert last.claim() is None
    found = last.get(job_id)
    assert found
    assert found.state == "dead"
    last.close()


def test_a_heartbeat_keeps_the_lease_and_a_lost_lease_is_told(
    path: Path, clock: list[float]
) -> None:
    jobs, other = Queue(path), Queue(path)
    jobs.put("k", {})
    job = jobs.claim()
    assert job
    clock[0] += queue.LEASE - 1
    assert jobs.heartbeat(job.id, {"files": 1})
    clock[0] += queue.LEASE - 1
    assert other.reap() == 0
    clock[0] += 2
    assert other.reap() == 1
    assert not jobs.heartbeat(job.id, {})
    assert not jobs.ack(job.id, {})
    jobs.close()
    other.close()


def test_a_failed_attempt_is_due_again_after_a_pause(path: Path, clock: list[float]) -> None:
    jobs = Queue(path)
    job_id = jobs.put("k", {})
    assert jobs.claim()
    assert jobs.fail(job_id, {"errors": ["x"]}, retry=True)
    assert jobs.claim() is None
    clock[0] += 5
    again = jobs.claim()
    assert again
    assert (again.attempts, again.progress) == (2, {"errors": ["x"]})
    assert jobs.fail(job_id, {}, retry=False)
    clock[0] += 400
    assert jobs.claim() is None
    assert jobs.pending() == 0
    jobs.close()


def test_a_released_job_has_lost_no_attempt(path: Path) -> None:
    jobs = Queue(path)
    job_id = jobs.put("k", {})
    assert jobs.claim()
    assert jobs.release(job_id, {})
    again = jobs.claim()
    assert again
    assert again.attempts == 1
    jobs.close()


def test_ended_jobs_are_forgotten_after_a_while(path: Path, clock: list[float]) -> None:
    jobs = Queue(path)
    job_id = jobs.put("k", {})
    assert jobs.claim()
    assert jobs.ack(job_id, {"files": 1})
    jobs.close()
    clock[0] += queue.KEEP_ENDED + 1
    later = Queue(path)
    assert later.get(job_id) is None
    later.close()


def test_a_damaged_file_is_named(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to be taken for one" * 100)
    with pytest.raises(StoreError, match=r"queue\.db"):
        Queue(path)


def test_a_job_that_finds_no_room_is_refused_and_the_next_is_taken(path: Path) -> None:
    jobs = Queue(path)
    jobs.put("before", {})
    database = jobs._db
    held = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count={held}")
    with pytest.raises(StoreError) as refused:
        jobs.put("large", {"text": "x" * 100_000})
    assert refused.value.code == "store_full"
    assert str(path) in refused.value.message
    database.execute(f"PRAGMA max_page_count={held + 100}")
    taken = jobs.put("large", {"text": "x" * 100_000})
    assert [job.id for _ in range(2) if (job := jobs.claim())][1:] == [taken]
    jobs.close()
