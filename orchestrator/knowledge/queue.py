"""A lease queue in SQLite: at least once, idempotent, and no job can kill its worker forever.

A job's attempt is counted when it is claimed, not when it fails: a job whose worker dies with
it has used one up too. A lease that is not renewed runs out and the job is due again, after a
pause, or `dead` at the third time.
"""

import contextlib
import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.errors import StoreError
from orchestrator.store.database import explained

MAX_ATTEMPTS = 3
LEASE = 15.0
KEEP_ENDED = 7 * 86_400.0
_LONGEST_PAUSE = 300.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS job(
    id TEXT PRIMARY KEY, key TEXT NOT NULL, body TEXT NOT NULL, progress TEXT NOT NULL,
    state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL,
    lease_until REAL, owner TEXT, created REAL NOT NULL, updated REAL NOT NULL);
CREATE INDEX IF NOT EXISTS job_waiting ON job(key) WHERE state = 'ready';
CREATE INDEX IF NOT EXISTS job_due ON job(state, due);
"""


@dataclass(frozen=True)
class Job:
    """`state`: ready, leased, done or dead. Times in seconds since 1970."""

    id: str
    body: dict[str, Any]
    progress: dict[str, Any]
    state: str
    attempts: int
    created: float
    updated: float


class Queue:
    """Jobs in a database file. Thread-safe; several processes may share the file.

    What is wrong with the file or its disk is raised as StoreError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._owner = uuid.uuid4().hex
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise StoreError(
                "queue_damaged",
                f"The ingest queue {path} cannot be opened: {error}.",
                "Move the file away; documents that were waiting have to be indexed again.",
            ) from error
        self._execute(
            "DELETE FROM job WHERE state IN ('done', 'dead') AND updated < ?",
            time.time() - KEEP_ENDED,
        )

    def put(self, key: str, body: dict[str, Any]) -> str:
        """Queue a job; the id. A job of the same key that still waits is the same job."""
        now = time.time()
        job_id = uuid.uuid4().hex
        with self._lock, explained(self._path), _transaction(self._db):
            waiting = self._db.execute(
                "SELECT id FROM job WHERE key = ? AND state = 'ready'", (key,)
            ).fetchone()
            if waiting:
                return str(waiting[0])
            self._db.execute(
                "INSERT INTO job(id, key, body, progress, state, due, created, updated)"
                " VALUES (?, ?, ?, '{}', 'ready', ?, ?, ?)",
                (job_id, key, json.dumps(body), now, now, now),
            )
        return job_id

    def get(self, job_id: str) -> Job | None:
        rows = self._execute(f"SELECT {_COLUMNS} FROM job WHERE id = ?", job_id)
        return _job(rows[0]) if rows else None

    def claim(self) -> Job | None:
        """Lease the job that has been due longest, and count the attempt."""
        now = time.time()
        rows = self._execute(
            "UPDATE job SET state = 'leased', owner = ?, lease_until = ?, updated = ?,"
            " attempts = attempts + 1 WHERE id = (SELECT id FROM job WHERE state = 'ready'"
            f" AND due <= ? ORDER BY due, rowid LIMIT 1) RETURNING {_COLUMNS}",
            self._owner,
            now + LEASE,
            now,
            now,
        )
        return _job(rows[0]) if rows else None

    def heartbeat(self, job_id: str, progress: dict[str, Any]) -> bool:
        """Renew a lease and note the progress. False: the lease was lost, the work must stop."""
        return self._leave(job_id, "leased", progress, lease_until=time.time() + LEASE)

    def ack(self, job_id: str, progress: dict[str, Any]) -> bool:
        """The job is done."""
        return self._leave(job_id, "done", progress)

    def fail(self, job_id: str, progress: dict[str, Any], retry: bool) -> bool:
        """The attempt failed; due again after a pause, or dead if it was the last."""
        job = self.get(job_id)
        if job is None:
            return False
        if not retry or job.attempts >= MAX_ATTEMPTS:
            return self._leave(job_id, "dead", progress)
        pause = min(_LONGEST_PAUSE, 2 << job.attempts)
        return self._leave(job_id, "ready", progress, due=time.time() + pause)

    def release(self, job_id: str, progress: dict[str, Any]) -> bool:
        """Give a job back untried, because the worker ends."""
        return self._leave(job_id, "ready", progress, due=time.time(), untried=1)

    def reap(self) -> int:
        """Take back the jobs whose lease ran out; their number."""
        now = time.time()
        return len(
            self._execute(
                "UPDATE job SET state = CASE WHEN attempts >= ? THEN 'dead' ELSE 'ready' END,"
                " due = ? + min(?, 2 << attempts), owner = NULL, lease_until = NULL, updated = ?"
                " WHERE state = 'leased' AND lease_until < ? RETURNING id",
                MAX_ATTEMPTS,
                now,
                _LONGEST_PAUSE,
                now,
                now,
            )
        )

    def pending(self) -> int:
        """Jobs that are waiting or being worked on."""
        [[count]] = self._execute("SELECT count(*) FROM job WHERE state IN ('ready', 'leased')")
        return int(count)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _leave(
        self,
        job_id: str,
        state: str,
        progress: dict[str, Any],
        lease_until: float | None = None,
        due: float = 0,
        untried: int = 0,
    ) -> bool:
        rows = self._execute(
            "UPDATE job SET state = ?, progress = ?, lease_until = ?, due = ?,"
            " attempts = attempts - ?, updated = ?"
            " WHERE id = ? AND owner = ? AND state = 'leased' RETURNING id",
            state,
            json.dumps(progress),
            lease_until,
            due,
            untried,
            time.time(),
            job_id,
            self._owner,
        )
        return bool(rows)

    def _execute(self, statement: str, *values: Any) -> list[Any]:
        with self._lock, explained(self._path):
            return self._db.execute(statement, values).fetchall()


_COLUMNS = "id, body, progress, state, attempts, created, updated"


def _job(row: Any) -> Job:
    job_id, body, progress, state, attempts, created, updated = row
    return Job(job_id, json.loads(body), json.loads(progress), state, attempts, created, updated)


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:  # boundary: cancelled or not, nothing half done stays
        # On a full disk SQLite may have rolled back by itself.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
