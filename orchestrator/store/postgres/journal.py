"""The Journal on PostgreSQL. Every commit waits for the disk."""

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from orchestrator.store.postgres.connections import Connection, Connections, rows
from orchestrator.store.records import ApprovalRecord, ExecutionRecord

APPROVAL_COLUMNS = (
    "id, run_id, thread_id, owner, tool_call_id, tool, arguments, arguments_hash, reason, status,"
    " created_at, expires_at, decided_by, comment"
)
EXECUTION_COLUMNS = "tool_call_id, run_id, tool, arguments_hash, status, started_at, outcome"
PROPOSE = (
    f"INSERT INTO approvals ({APPROVAL_COLUMNS}, write) VALUES (%(id)s, %(run_id)s, %(thread_id)s,"
    " %(owner)s, %(tool_call_id)s, %(tool)s, %(arguments)s, %(arguments_hash)s, %(reason)s,"
    " %(status)s, %(created_at)s, %(expires_at)s, NULL, NULL, '')"
    " ON CONFLICT (tool_call_id) DO NOTHING RETURNING id"
)
DECIDE = (
    "UPDATE approvals SET status = %(status)s, decided_by = %(by)s, comment = %(comment)s,"
    " decided_at = %(now)s, arguments = coalesce(%(arguments)s::text, arguments),"
    " arguments_hash = coalesce(%(hash)s::text, arguments_hash), write = %(write)s"
    " WHERE id = %(id)s AND status = 'pending' RETURNING id"
)
BEGIN = (
    "INSERT INTO executions (tool_call_id, run_id, tool, arguments_hash, status, started_at, write)"
    " VALUES (%(tool_call_id)s, %(run_id)s, %(tool)s, %(arguments_hash)s, %(status)s,"
    " %(started_at)s, %(write)s) ON CONFLICT (tool_call_id) DO NOTHING RETURNING tool_call_id"
)
FINISH = (
    "UPDATE executions SET status = %(status)s, outcome = %(outcome)s, finished_at = %(now)s"
    " WHERE tool_call_id = %(id)s AND status = 'started'"
)
FORGET = (
    "WITH forgotten AS (DELETE FROM approvals WHERE run_id = ANY(%(ids)s::text[]))"
    " DELETE FROM executions WHERE run_id = ANY(%(ids)s::text[])"
)


class PostgresJournal:
    """See `orchestrator.store.interface.Journal`."""

    def __init__(self, connections: Connections) -> None:
        """`connections` are such whose commits wait for the disk."""
        self._db = connections

    async def propose(self, approval: ApprovalRecord) -> ApprovalRecord:
        fields = {name: getattr(approval, name) for name in ApprovalRecord.__slots__}
        values = fields | {"arguments": orjson.dumps(approval.arguments).decode()}
        if await self._db.change(PROPOSE, values):
            return approval
        found = await self._approvals("tool_call_id = %(id)s", {"id": approval.tool_call_id})
        return found[0]

    async def approval(self, approval_id: str, owner: str | None = None) -> ApprovalRecord | None:
        found = await self._approvals(
            "id = %(id)s AND (%(owner)s::text IS NULL OR owner = %(owner)s)",
            {"id": approval_id, "owner": owner},
        )
        return found[0] if found else None

    async def approvals(self, owner: str, limit: int) -> list[ApprovalRecord]:
        return await self._approvals(
            "owner = %(owner)s AND status = 'pending' ORDER BY id LIMIT %(limit)s",
            {"owner": owner, "limit": limit},
        )

    async def approvals_of(self, run_id: str) -> list[ApprovalRecord]:
        return await self._approvals("run_id = %(id)s ORDER BY id", {"id": run_id})

    async def overdue(self, now: float) -> list[ApprovalRecord]:
        return await self._approvals("status = 'pending' AND expires_at < %(now)s", {"now": now})

    async def decide(
        self,
        approval_id: str,
        status: str,
        decided_by: str,
        comment: str | None,
        arguments: dict[str, Any] | None,
        arguments_hash: str | None,
    ) -> bool:
        values = {
            "id": approval_id, "status": status, "by": decided_by, "comment": comment,
            "now": time.time(), "hash": arguments_hash, "write": secrets.token_hex(8),
            "arguments": None if arguments is None else orjson.dumps(arguments).decode(),
        }  # fmt: skip

        async def decide(connection: Connection, again: bool) -> bool:
            if await rows(connection, DECIDE, values):
                return True
            mine = "SELECT 1 FROM approvals WHERE id = %(id)s AND write = %(write)s"
            return again and bool(await rows(connection, mine, values))

        return await self._db.write(decide)

    async def begin(self, execution: ExecutionRecord) -> ExecutionRecord | None:
        fields = {name: getattr(execution, name) for name in ExecutionRecord.__slots__}
        values = fields | {"outcome": None, "write": secrets.token_hex(8)}

        async def begin(connection: Connection, again: bool) -> ExecutionRecord | None:
            if await rows(connection, BEGIN, values):
                return None
            found = await rows(
                connection,
                f"SELECT write, {EXECUTION_COLUMNS} FROM executions"
                " WHERE tool_call_id = %(tool_call_id)s",
                values,
            )
            (token, *written) = found[0]
            return None if again and token == values["write"] else _execution(written)

        return await self._db.write(begin)

    async def finish(self, tool_call_id: str, status: str, outcome: dict[str, Any]) -> None:
        values = {
            "id": tool_call_id, "status": status, "now": time.time(),
            "outcome": orjson.dumps(outcome).decode(),
        }  # fmt: skip
        await self._db.change(FINISH, values)

    async def executions_of(self, run_id: str) -> list[ExecutionRecord]:
        found = await self._db.read(
            f"SELECT {EXECUTION_COLUMNS} FROM executions WHERE run_id = %(id)s ORDER BY started_at",
            {"id": run_id},
        )
        return [_execution(row) for row in found]

    async def forget(self, run_ids: Sequence[str]) -> None:
        await self._db.change(FORGET, {"ids": list(run_ids)})

    async def close(self) -> None:
        await self._db.close()

    async def _approvals(self, where: str, values: Mapping[str, Any]) -> list[ApprovalRecord]:
        found = await self._db.read(
            f"SELECT {APPROVAL_COLUMNS} FROM approvals WHERE {where}", values
        )
        return [ApprovalRecord(*(*row[:6], orjson.loads(row[6]), *row[7:])) for row in found]


def _execution(row: Sequence[Any]) -> ExecutionRecord:
    return ExecutionRecord(*(*row[:6], orjson.loads(row[6]) if row[6] else None))
