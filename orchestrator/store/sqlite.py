"""The embedded Store: one SQLite file in WAL mode, `synchronous=NORMAL`.

Statements run on the caller's thread: a commit to the WAL costs some ten microseconds, a hop to
another thread costs more. The one slow step, copying the WAL back into the file, is taken off
the path: `checkpoint` does it in a thread, on a connection of its own.
"""

import asyncio
import sqlite3
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from contracts.chat import RunStatus
from contracts.errors import NotFound, StoreError
from orchestrator.store.database import Database, lock_folder
from orchestrator.store.records import (
    Addition,
    EventBlock,
    RunRecord,
    StoredMessage,
    ThreadRecord,
)
from orchestrator.store.schema import SCHEMA, SCHEMA_VERSION

RUN_COLUMNS = (
    "id, thread_id, owner, status, request, created_at, updated_at, process, lease_until,"
    " stop_requested, recoveries, progress, response"
)
UNFINISHED = (
    "SELECT 1 FROM runs WHERE runs.thread_id = threads.id"
    " AND runs.status IN ('queued', 'running', 'awaiting_approval')"
)


class SqliteStore:
    """See `orchestrator.store.interface.Store`. One process at a time owns the file."""

    def __init__(self, path: Path) -> None:
        self._lock = lock_folder(path.with_suffix(".lock"))
        try:
            self._db = Database(path, SCHEMA, SCHEMA_VERSION, "NORMAL")
        except StoreError:
            self._lock.close()
            raise
        self._db.rows("PRAGMA wal_autocheckpoint=0")

    # Threads and messages

    async def thread(self, thread_id: str, owner: str | None = None) -> ThreadRecord | None:
        row = self._db.row(
            "SELECT id, owner, title, created_at, updated_at FROM threads"
            " WHERE id = ?1 AND (?2 IS NULL OR owner = ?2)",
            (thread_id, owner),
        )
        return ThreadRecord(*row) if row else None

    async def threads(
        self, owner: str, limit: int, before: str | None = None
    ) -> list[ThreadRecord]:
        rows = self._db.rows(
            "SELECT id, owner, title, created_at, updated_at FROM threads"
            " WHERE owner = ?1 AND (?2 IS NULL OR id < ?2) ORDER BY id DESC LIMIT ?3",
            (owner, before, limit),
        )
        return [ThreadRecord(*row) for row in rows]

    async def run_ids(self, thread_ids: Sequence[str]) -> list[str]:
        rows = self._db.rows(
            "SELECT id FROM runs WHERE thread_id IN (SELECT value FROM json_each(?))",
            (orjson.dumps(list(thread_ids)).decode(),),
        )
        return [row[0] for row in rows]

    async def delete_threads(self, thread_ids: Sequence[str]) -> int:
        deleted = 0
        for thread_id in thread_ids:
            sql = f"DELETE FROM threads WHERE id = ? AND NOT EXISTS ({UNFINISHED})"
            deleted += self._db.change(sql, (thread_id,))
            await asyncio.sleep(0)  # a thread may hold much: others get their turn in between
        return deleted

    async def idle_threads(self, idle_since: float, owner: str | None = None) -> list[str]:
        rows = self._db.rows(
            "SELECT id FROM threads WHERE updated_at < ?1 AND (?2 IS NULL OR owner = ?2)"
            f" AND NOT EXISTS ({UNFINISHED})",
            (idle_since, owner),
        )
        return [row[0] for row in rows]

    async def messages(self, thread_id: str) -> list[StoredMessage]:
        rows = self._db.rows(
            "SELECT seq, run_id, body FROM messages WHERE thread_id = ? ORDER BY seq", (thread_id,)
        )
        return [StoredMessage(seq, run_id, orjson.loads(body)) for seq, run_id, body in rows]

    # Runs

    async def create_run(
        self,
        run: RunRecord,
        first: Sequence[dict[str, Any]] = (),
        thread: ThreadRecord | None = None,
    ) -> bool:
        values = (
            run.id, run.thread_id, run.owner, run.status, _text(run.request), run.created_at,
            run.updated_at, run.process, run.lease_until, 0, 0, _text(run.progress), None,
        )  # fmt: skip
        try:
            with self._db.transaction():
                if thread is not None:
                    self._create_thread(thread)
                self._db.change(f"INSERT INTO runs VALUES ({', '.join('?' * 13)})", values)
                self._append(run.thread_id, run.id, first)
                self._touch(run.thread_id, run.created_at)
        except sqlite3.IntegrityError:
            if await self.thread(run.thread_id) is None:
                raise NotFound(
                    "unknown_thread", f"There is no thread {run.thread_id!r}.", "See GET /threads."
                ) from None
            return False
        return True

    async def run(self, run_id: str, owner: str | None = None) -> RunRecord | None:
        return self._one("id = ?1 AND (?2 IS NULL OR owner = ?2)", (run_id, owner))

    async def runs(self, owner: str, limit: int, before: str | None = None) -> list[RunRecord]:
        return self._many(
            "owner = ?1 AND (?2 IS NULL OR id < ?2) ORDER BY id DESC LIMIT ?3",
            (owner, before, limit),
        )

    async def live_run(self, thread_id: str) -> RunRecord | None:
        return self._one(
            "thread_id = ? AND status IN ('running', 'awaiting_approval')", (thread_id,)
        )

    async def queued_runs(self, thread_id: str) -> list[RunRecord]:
        return self._many("thread_id = ? AND status = 'queued' ORDER BY id", (thread_id,))

    async def queued_threads(self) -> list[str]:
        rows = self._db.rows("SELECT DISTINCT thread_id FROM runs WHERE status = 'queued'")
        return [row[0] for row in rows]

    async def start_run(
        self, run_id: str, process: str, lease_until: float, first: Sequence[dict[str, Any]]
    ) -> bool:
        try:
            with self._db.transaction():
                started = self._db.row(
                    "UPDATE runs SET status = 'running', process = ?, lease_until = ?,"
                    " updated_at = ? WHERE id = ? AND status = 'queued' RETURNING thread_id",
                    (process, lease_until, time.time(), run_id),
                )
                if started is not None:
                    self._append(started[0], run_id, first)
        except sqlite3.IntegrityError:
            return False
        return started is not None

    async def resume_run(self, run_id: str, process: str, lease_until: float) -> bool:
        changed = self._db.change(
            "UPDATE runs SET status = 'running', process = ?, lease_until = ?, updated_at = ?"
            " WHERE id = ? AND status = 'awaiting_approval'",
            (process, lease_until, time.time(), run_id),
        )
        return changed == 1

    async def save_run(self, run_id: str, addition: Addition) -> None:
        with self._db.transaction():
            row = self._db.row(
                "UPDATE runs SET progress = ? WHERE id = ? RETURNING thread_id",
                (_text(addition.progress), run_id),
            )
            if row is None:
                raise NotFound("unknown_run", f"There is no run {run_id!r}.", "See GET /runs.")
            self._add(row[0], run_id, addition)

    async def settle_run(
        self,
        run_id: str,
        expected: RunStatus,
        status: RunStatus,
        addition: Addition,
        response: dict[str, Any],
    ) -> bool:
        now = time.time()
        with self._db.transaction():
            row = self._db.row(
                "UPDATE runs SET status = ?, progress = ?, response = ?, updated_at = ?"
                " WHERE id = ? AND status = ? RETURNING thread_id",
                (status, _text(addition.progress), _text(response), now, run_id, expected),
            )
            if row is not None:
                self._add(row[0], run_id, addition)
                self._touch(row[0], now)
        return row is not None

    async def resting_runs(self) -> list[RunRecord]:
        # In the words of the index of live runs; without them SQLite would read every run.
        live = "status IN ('running', 'awaiting_approval')"
        return self._many(f"{live} AND +status = 'awaiting_approval'", ())

    async def request_stop(self, run_id: str) -> None:
        self._db.change("UPDATE runs SET stop_requested = 1 WHERE id = ?", (run_id,))

    async def renew_leases(self, process: str, until: float) -> list[str]:
        rows = self._db.rows(
            "UPDATE runs SET lease_until = ? WHERE process = ? AND status = 'running'"
            " RETURNING id, stop_requested",
            (until, process),
        )
        return [run_id for run_id, stop in rows if stop]

    async def claim_orphans(self, process: str, now: float, until: float) -> list[RunRecord]:
        # The file lock says that no other process lives, whatever its lease said.
        self._db.change(
            "UPDATE runs SET process = ?1, lease_until = ?2,"
            " recoveries = recoveries + (lease_until > 0)"
            " WHERE status = 'running' AND process <> ?1",
            (process, until),
        )
        return self._many("status = 'running' AND process = ?", (process,))

    async def claim_expired(self, process: str, now: float, until: float) -> list[RunRecord]:
        return []  # the file lock says that there is no other process

    async def release(self, run_id: str) -> None:
        self._db.change("UPDATE runs SET lease_until = 0 WHERE id = ?", (run_id,))

    # Event logs and raw exchanges

    async def append_events(self, run_id: str, block: EventBlock) -> None:
        self._append_events(run_id, block)

    async def events(self, run_id: str, after: int) -> list[dict[str, Any]]:
        rows = self._db.rows(
            "SELECT body FROM events WHERE run_id = ? AND last > ? ORDER BY first", (run_id, after)
        )
        blocks = (orjson.loads(zlib.decompress(row[0])) for row in rows)
        return [event for block in blocks for event in block if event["id"] > after]

    async def last_event(self, run_id: str) -> int:
        row = self._db.row("SELECT max(last) FROM events WHERE run_id = ?", (run_id,))
        return int(row[0] or 0) if row else 0

    async def add_exchange(self, run_id: str, request: bytes, response: bytes, ms: float) -> None:
        self._db.change(
            "INSERT INTO exchanges VALUES (?1,"
            " (SELECT coalesce(max(n), 0) + 1 FROM exchanges WHERE run_id = ?1), ?2, ?3, ?4)",
            (run_id, zlib.compress(request, 1), zlib.compress(response, 1), ms),
        )

    async def exchanges(self, run_id: str) -> list[tuple[int, bytes, bytes, float]]:
        rows = self._db.rows(
            "SELECT n, request, response, ms FROM exchanges WHERE run_id = ? ORDER BY n", (run_id,)
        )
        return [(n, zlib.decompress(a), zlib.decompress(b), ms) for n, a, b, ms in rows]

    async def prune_exchanges(self, keep_runs: int) -> None:
        self._db.change(
            "DELETE FROM exchanges WHERE run_id NOT IN"
            " (SELECT id FROM runs ORDER BY id DESC LIMIT ?)",
            (keep_runs,),
        )

    # The file

    async def checkpoint(self) -> None:
        """Copy the WAL back into the file, without holding up readers or writers."""
        await asyncio.to_thread(self._db.checkpoint)

    async def sync(self) -> None:
        await asyncio.to_thread(self._db.sync)

    async def close(self) -> None:
        try:
            self._db.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self._db.close()
            self._lock.close()

    # Statements that others are made of

    def _one(self, where: str, values: tuple[Any, ...]) -> RunRecord | None:
        rows = self._many(where, values)
        return rows[0] if rows else None

    def _many(self, where: str, values: tuple[Any, ...]) -> list[RunRecord]:
        rows = self._db.rows(f"SELECT {RUN_COLUMNS} FROM runs WHERE {where}", values)
        return [_run(row) for row in rows]

    def _create_thread(self, thread: ThreadRecord) -> None:
        self._db.change(
            "INSERT INTO threads VALUES (?, ?, ?, ?, ?)",
            (thread.id, thread.owner, thread.title, thread.created_at, thread.updated_at),
        )

    def _touch(self, thread_id: str, now: float) -> None:
        self._db.change("UPDATE threads SET updated_at = ? WHERE id = ?", (now, thread_id))

    def _add(self, thread_id: str, run_id: str, addition: Addition) -> None:
        self._append(thread_id, run_id, addition.bodies)
        if addition.events is not None:
            self._append_events(run_id, addition.events)

    def _append(self, thread_id: str, run_id: str, bodies: Sequence[dict[str, Any]]) -> None:
        self._db.change_each(
            "INSERT INTO messages VALUES (?1,"
            " (SELECT coalesce(max(seq), 0) + 1 FROM messages WHERE thread_id = ?1), ?2, ?3)",
            [(thread_id, run_id, _text(body)) for body in bodies],
        )

    def _append_events(self, run_id: str, block: EventBlock) -> None:
        self._db.change(
            "INSERT INTO events VALUES (?, ?, ?, ?)",
            (run_id, block.first, block.last, zlib.compress(orjson.dumps(block.events), 1)),
        )


def _run(row: tuple[Any, ...]) -> RunRecord:
    (run_id, thread_id, owner, status, request, created, updated, process, lease, stop,
     recoveries, progress, response) = row  # fmt: skip
    return RunRecord(
        run_id, thread_id, owner, status, orjson.loads(request), created, updated, process, lease,
        bool(stop), recoveries, orjson.loads(progress), _json(response),
    )  # fmt: skip


def _json(text: str | None) -> Any:
    return orjson.loads(text) if text else None


def _text(value: dict[str, Any]) -> str:
    return orjson.dumps(value).decode()
