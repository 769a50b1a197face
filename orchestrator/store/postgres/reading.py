"""What is asked of the Store on PostgreSQL: each question one statement, on any connection."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from orchestrator.store.postgres.connections import Connections
from orchestrator.store.postgres.statements import LIVE, RUN_COLUMNS
from orchestrator.store.records import RunRecord, StoredMessage, ThreadRecord

THREAD_COLUMNS = "id, owner, title, created_at, updated_at"
UNFINISHED = (
    "SELECT FROM runs WHERE runs.thread_id = threads.id"
    " AND runs.status IN ('queued', 'running', 'awaiting_approval')"
)


class Reading:
    def __init__(self, connections: Connections) -> None:
        self._db = connections

    async def thread(self, thread_id: str, owner: str | None = None) -> ThreadRecord | None:
        found = await self._db.read(
            f"SELECT {THREAD_COLUMNS} FROM threads WHERE id = %(id)s"
            " AND (%(owner)s::text IS NULL OR owner = %(owner)s)",
            {"id": thread_id, "owner": owner},
        )
        return ThreadRecord(*found[0]) if found else None

    async def threads(
        self, owner: str, limit: int, before: str | None = None
    ) -> list[ThreadRecord]:
        found = await self._db.read(
            f"SELECT {THREAD_COLUMNS} FROM threads WHERE owner = %(owner)s"
            " AND (%(before)s::text IS NULL OR id < %(before)s) ORDER BY id DESC LIMIT %(limit)s",
            {"owner": owner, "before": before, "limit": limit},
        )
        return [ThreadRecord(*row) for row in found]

    async def run_ids(self, thread_ids: Sequence[str]) -> list[str]:
        found = await self._db.read(
            "SELECT id FROM runs WHERE thread_id = ANY(%(ids)s::text[])", {"ids": list(thread_ids)}
        )
        return [row[0] for row in found]

    async def idle_threads(self, idle_since: float, owner: str | None = None) -> list[str]:
        found = await self._db.read(
            "SELECT id FROM threads WHERE updated_at < %(since)s"
            " AND (%(owner)s::text IS NULL OR owner = %(owner)s)"
            f" AND NOT EXISTS ({UNFINISHED})",
            {"since": idle_since, "owner": owner},
        )
        return [row[0] for row in found]

    async def messages(self, thread_id: str) -> list[StoredMessage]:
        found = await self._db.read(
            "SELECT seq, run_id, body FROM messages WHERE thread_id = %(id)s ORDER BY seq",
            {"id": thread_id},
        )
        return [StoredMessage(seq, run_id, orjson.loads(body)) for seq, run_id, body in found]

    async def run(self, run_id: str, owner: str | None = None) -> RunRecord | None:
        found = await self._many(
            "id = %(id)s AND (%(owner)s::text IS NULL OR owner = %(owner)s)",
            {"id": run_id, "owner": owner},
        )
        return found[0] if found else None

    async def runs(self, owner: str, limit: int, before: str | None = None) -> list[RunRecord]:
        return await self._many(
            "owner = %(owner)s AND (%(before)s::text IS NULL OR id < %(before)s)"
            " ORDER BY id DESC LIMIT %(limit)s",
            {"owner": owner, "before": before, "limit": limit},
        )

    async def live_run(self, thread_id: str) -> RunRecord | None:
        found = await self._many(f"thread_id = %(id)s AND status IN {LIVE}", {"id": thread_id})
        return found[0] if found else None

    async def queued_runs(self, thread_id: str) -> list[RunRecord]:
        return await self._many(
            "thread_id = %(id)s AND status = 'queued' ORDER BY id", {"id": thread_id}
        )

    async def queued_threads(self) -> list[str]:
        found = await self._db.read("SELECT DISTINCT thread_id FROM runs WHERE status = 'queued'")
        return [row[0] for row in found]

    async def resting_runs(self) -> list[RunRecord]:
        return await self._many("status = 'awaiting_approval'", {})

    async def events(self, run_id: str, after: int) -> list[dict[str, Any]]:
        found = await self._db.read(
            "SELECT body FROM events WHERE run_id = %(id)s AND last > %(after)s::bigint"
            " ORDER BY first",
            {"id": run_id, "after": after},
        )
        blocks = (orjson.loads(zlib.decompress(row[0])) for row in found)
        return [event for block in blocks for event in block if event["id"] > after]

    async def last_event(self, run_id: str) -> int:
        found = await self._db.read(
            "SELECT coalesce(max(last), 0) FROM events WHERE run_id = %(id)s", {"id": run_id}
        )
        return int(found[0][0])

    async def exchanges(self, run_id: str) -> list[tuple[int, bytes, bytes, float]]:
        found = await self._db.read(
            "SELECT n, request, response, ms FROM exchanges WHERE run_id = %(id)s ORDER BY n",
            {"id": run_id},
        )
        return [(n, zlib.decompress(a), zlib.decompress(b), ms) for n, a, b, ms in found]

    async def _many(self, where: str, values: Mapping[str, Any]) -> list[RunRecord]:
        found = await self._db.read(f"SELECT {RUN_COLUMNS} FROM runs WHERE {where}", values)
        return [_run(row) for row in found]


def _run(row: tuple[Any, ...]) -> RunRecord:
    (run_id, thread_id, owner, status, request, created, updated, process, lease, stop,
     recoveries, progress, response) = row  # fmt: skip
    return RunRecord(
        run_id, thread_id, owner, status, orjson.loads(request), created, updated, process, lease,
        stop, recoveries, orjson.loads(progress), orjson.loads(response) if response else None,
    )  # fmt: skip
