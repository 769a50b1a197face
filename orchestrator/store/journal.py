"""The embedded Journal: one SQLite file with `synchronous=FULL`, written from a thread of its own.

A file apart from the Store, so that waiting for the disk here never holds up a token there.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import orjson

from orchestrator.store.database import Database
from orchestrator.store.records import ApprovalRecord, ExecutionRecord

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE approvals (
  id TEXT PRIMARY KEY, run_id TEXT NOT NULL, thread_id TEXT NOT NULL, owner TEXT NOT NULL,
  tool_call_id TEXT NOT NULL UNIQUE, tool TEXT NOT NULL, arguments TEXT NOT NULL,
  arguments_hash TEXT NOT NULL, reason TEXT NOT NULL, status TEXT NOT NULL,
  created_at REAL NOT NULL, expires_at REAL NOT NULL, decided_by TEXT, comment TEXT,
  decided_at REAL
) STRICT;
CREATE INDEX approvals_run ON approvals (run_id);
CREATE INDEX approvals_pending ON approvals (owner, id) WHERE status = 'pending';
CREATE TABLE executions (
  tool_call_id TEXT PRIMARY KEY, run_id TEXT NOT NULL, tool TEXT NOT NULL,
  arguments_hash TEXT NOT NULL, status TEXT NOT NULL, started_at REAL NOT NULL,
  outcome TEXT, finished_at REAL
) STRICT;
CREATE INDEX executions_run ON executions (run_id);
"""
APPROVAL_COLUMNS = (
    "id, run_id, thread_id, owner, tool_call_id, tool, arguments, arguments_hash, reason, status,"
    " created_at, expires_at, decided_by, comment"
)
EXECUTION_COLUMNS = "tool_call_id, run_id, tool, arguments_hash, status, started_at, outcome"

T = TypeVar("T")


class SqliteJournal:
    """See `orchestrator.store.interface.Journal`."""

    def __init__(self, path: Path) -> None:
        self._db = Database(path, SCHEMA, SCHEMA_VERSION, "FULL")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")

    async def propose(self, approval: ApprovalRecord) -> ApprovalRecord:
        values = (
            approval.id, approval.run_id, approval.thread_id, approval.owner,
            approval.tool_call_id, approval.tool, orjson.dumps(approval.arguments).decode(),
            approval.arguments_hash, approval.reason, approval.status, approval.created_at,
            approval.expires_at, None, None, None,
        )  # fmt: skip
        sql = f"INSERT OR IGNORE INTO approvals VALUES ({', '.join('?' * 15)})"
        if await self._do(lambda db: db.change(sql, values)) == 1:
            return approval
        found = await self._approvals("tool_call_id = ?", (approval.tool_call_id,))
        return found[0]

    async def approval(self, approval_id: str, owner: str | None = None) -> ApprovalRecord | None:
        found = await self._approvals(
            "id = ?1 AND (?2 IS NULL OR owner = ?2)", (approval_id, owner)
        )
        return found[0] if found else None

    async def approvals(self, owner: str, limit: int) -> list[ApprovalRecord]:
        return await self._approvals(
            "owner = ? AND status = 'pending' ORDER BY id LIMIT ?", (owner, limit)
        )

    async def approvals_of(self, run_id: str) -> list[ApprovalRecord]:
        return await self._approvals("run_id = ? ORDER BY id", (run_id,))

    async def overdue(self, now: float) -> list[ApprovalRecord]:
        return await self._approvals("status = 'pending' AND expires_at < ?", (now,))

    async def decide(
        self,
        approval_id: str,
        status: str,
        decided_by: str,
        comment: str | None,
        arguments: dict[str, Any] | None,
        arguments_hash: str | None,
    ) -> bool:
        changed = orjson.dumps(arguments).decode() if arguments is not None else None
        sql = (
            "UPDATE approvals SET status = ?, decided_by = ?, comment = ?, decided_at = ?,"
            " arguments = coalesce(?, arguments), arguments_hash = coalesce(?, arguments_hash)"
            " WHERE id = ? AND status = 'pending'"
        )
        values = (status, decided_by, comment, time.time(), changed, arguments_hash, approval_id)
        return await self._do(lambda db: db.change(sql, values)) == 1

    async def begin(self, execution: ExecutionRecord) -> ExecutionRecord | None:
        values = (
            execution.tool_call_id, execution.run_id, execution.tool, execution.arguments_hash,
            execution.status, execution.started_at, None, None,
        )  # fmt: skip
        sql = f"INSERT OR IGNORE INTO executions VALUES ({', '.join('?' * 8)})"
        if await self._do(lambda db: db.change(sql, values)) == 1:
            return None
        found = await self._executions("tool_call_id = ?", (execution.tool_call_id,))
        return found[0]

    async def finish(self, tool_call_id: str, status: str, outcome: dict[str, Any]) -> None:
        sql = (
            "UPDATE executions SET status = ?, outcome = ?, finished_at = ?"
            " WHERE tool_call_id = ? AND status = 'started'"
        )
        values = (status, orjson.dumps(outcome).decode(), time.time(), tool_call_id)
        await self._do(lambda db: db.change(sql, values))

    async def executions_of(self, run_id: str) -> list[ExecutionRecord]:
        return await self._executions("run_id = ? ORDER BY started_at", (run_id,))

    async def forget(self, run_ids: Sequence[str]) -> None:
        rows = [(run_id,) for run_id in run_ids]

        def delete(db: Database) -> None:
            with db.transaction():
                db.change_each("DELETE FROM approvals WHERE run_id = ?", rows)
                db.change_each("DELETE FROM executions WHERE run_id = ?", rows)

        await self._do(delete)

    async def close(self) -> None:
        try:
            await self._do(lambda db: db.close())
        finally:
            self._thread.shutdown()

    async def _approvals(self, where: str, values: tuple[Any, ...]) -> list[ApprovalRecord]:
        sql = f"SELECT {APPROVAL_COLUMNS} FROM approvals WHERE {where}"
        rows = await self._do(lambda db: db.rows(sql, values))
        return [ApprovalRecord(*(*row[:6], orjson.loads(row[6]), *row[7:])) for row in rows]

    async def _executions(self, where: str, values: tuple[Any, ...]) -> list[ExecutionRecord]:
        sql = f"SELECT {EXECUTION_COLUMNS} FROM executions WHERE {where}"
        rows = await self._do(lambda db: db.rows(sql, values))
        return [ExecutionRecord(*(*r[:6], orjson.loads(r[6]) if r[6] else None)) for r in rows]

    async def _do(self, work: Callable[[Database], T]) -> T:
        # Shielded: a run that is stopped while it writes must not take the write out of the queue.
        loop = asyncio.get_running_loop()
        return await asyncio.shield(loop.run_in_executor(self._thread, work, self._db))
