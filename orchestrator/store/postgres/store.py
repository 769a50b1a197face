"""The Store on PostgreSQL; `statements` says how its steps are made.

A step of a run waits for the disk: a server that dies and comes back must not have forgotten what
this process goes on from. Events, exchanges and leases do not wait: what is lost of them with the
server's last moments, nobody builds on.
"""

import secrets
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import psycopg

from contracts.chat import RunStatus
from contracts.errors import NotFound
from orchestrator.store.postgres import statements as sql
from orchestrator.store.postgres.connections import Connection, Connections, rows
from orchestrator.store.postgres.doubts import Doubts
from orchestrator.store.postgres.presence import Presence
from orchestrator.store.postgres.reading import UNFINISHED, Reading
from orchestrator.store.records import (
    Addition,
    EventBlock,
    RunRecord,
    ThreadRecord,
)

HOUSEKEEPING_S = 60.0


class PostgresStore(Reading):
    """See `orchestrator.store.interface.Store`. Several processes may share the database."""

    def __init__(self, connections: Connections, durable: Connections) -> None:
        """`durable` are connections whose commits wait for the disk; closed by their owner."""
        super().__init__(connections)
        self._durable = durable
        self._presence = Presence(connections)
        self._doubts = Doubts(durable)

    # Threads and messages

    async def delete_threads(self, thread_ids: Sequence[str]) -> int:
        deleted = 0
        for thread_id in thread_ids:
            deleted += await self._delete_thread(thread_id)
        return deleted

    # Runs

    async def create_run(
        self,
        run: RunRecord,
        first: Sequence[dict[str, Any]] = (),
        thread: ThreadRecord | None = None,
    ) -> bool:
        values = {
            "run": run.id, "thread": run.thread_id, "owner": run.owner, "status": run.status,
            "request": _text(run.request), "now": run.created_at, "updated": run.updated_at,
            "process": run.process, "lease": run.lease_until, "progress": _text(run.progress),
            "write": _token(), "bodies": [_text(body) for body in first],
        }  # fmt: skip
        statement = sql.step(sql.RUN_ON_THREAD, bool(first), touch=True)
        if thread is not None:
            values |= {"thread_owner": thread.owner, "title": thread.title}
            values |= {"thread_created": thread.created_at}
            statement = sql.opening()

        async def create(connection: Connection, again: bool) -> bool:
            try:
                done = await rows(connection, statement, values)
            except psycopg.IntegrityError:  # another run lives there, or the thread is gone
                done = []
            return bool(done) or (again and await _was_written(connection, values))

        creation = self._durable.write(create)
        created = await self._doubts.creation(run.id, thread.id if thread else None, creation)
        if not created and await self.thread(run.thread_id) is None:
            raise NotFound(
                "unknown_thread", f"There is no thread {run.thread_id!r}.", "See GET /threads."
            )
        return created

    async def start_run(
        self, run_id: str, process: str, lease_until: float, first: Sequence[dict[str, Any]]
    ) -> bool:
        statement = sql.step(sql.START, bool(first), touch=False)
        more = {"bodies": [_text(body) for body in first]}
        return await self._set_off(statement, run_id, process, lease_until, more)

    async def resume_run(self, run_id: str, process: str, lease_until: float) -> bool:
        statement = sql.step(sql.RESUME, bodies=False, touch=False)
        return await self._set_off(statement, run_id, process, lease_until, {})

    async def save_run(self, run_id: str, addition: Addition) -> None:
        if not await self._step(sql.SAVE, run_id, addition, {}, touch=False):
            raise NotFound("unknown_run", f"There is no run {run_id!r}.", "See GET /runs.")

    async def settle_run(
        self,
        run_id: str,
        expected: RunStatus,
        status: RunStatus,
        addition: Addition,
        response: dict[str, Any],
    ) -> bool:
        more = {
            "expected": expected, "status": status, "response": _text(response),
            "now": time.time(),
        }  # fmt: skip
        return await self._step(sql.SETTLE, run_id, addition, more, touch=True)

    async def request_stop(self, run_id: str) -> None:
        await self._durable.change(
            "UPDATE runs SET stop_requested = true WHERE id = %(id)s", {"id": run_id}
        )

    async def renew_leases(self, process: str, until: float) -> list[str]:
        await self._doubts.resolve()
        found = await self._db.change(
            "UPDATE runs SET lease_until = %(until)s WHERE process = %(process)s"
            " AND status = 'running' RETURNING id, stop_requested",
            {"until": until, "process": process},
        )
        return [run_id for run_id, stop in found if stop]

    async def claim_orphans(self, process: str, now: float, until: float) -> list[RunRecord]:
        await self._presence.hold(process)
        drivers = await self._db.read(
            "SELECT DISTINCT process FROM runs WHERE status = 'running'"
            " AND process <> %(process)s AND lease_until >= %(now)s",
            {"process": process, "now": now},
        )
        gone = await self._presence.gone(row[0] for row in drivers)
        await self._claim(process, now, until, gone)
        return await self._many(
            "status = 'running' AND process = %(process)s", {"process": process}
        )

    async def claim_expired(self, process: str, now: float, until: float) -> list[RunRecord]:
        token = await self._claim(process, now, until, [])
        return await self._many("status = 'running' AND write = %(token)s", {"token": token})

    async def release(self, run_id: str) -> None:
        await self._durable.change(
            "UPDATE runs SET lease_until = 0 WHERE id = %(id)s", {"id": run_id}
        )

    # Event logs and raw exchanges

    async def append_events(self, run_id: str, block: EventBlock) -> None:
        values = {"run": run_id, **_block(block)}
        doubtful = self._doubts.about(run_id)

        async def append(connection: Connection, again: bool) -> None:
            mend = sql.AGAIN if again or doubtful else ""
            await rows(connection, sql.EVENTS + mend, values)

        await self._doubts.step(run_id, self._db.write(append))

    async def add_exchange(self, run_id: str, request: bytes, response: bytes, ms: float) -> None:
        values = {
            "run": run_id, "request": zlib.compress(request, 1),
            "response": zlib.compress(response, 1), "ms": float(ms), "write": _token(),
        }  # fmt: skip

        async def add(connection: Connection, again: bool) -> None:
            try:
                await rows(connection, sql.EXCHANGE, values)
            except psycopg.errors.UniqueViolation:
                if not again:
                    raise

        await self._db.write(add)

    async def prune_exchanges(self, keep_runs: int) -> None:
        await self._db.change(
            "DELETE FROM exchanges WHERE run_id NOT IN"
            " (SELECT id FROM runs ORDER BY id DESC LIMIT %(keep)s)",
            {"keep": keep_runs},
            HOUSEKEEPING_S,
        )

    # The database

    async def checkpoint(self) -> None:
        """PostgreSQL makes its own."""

    async def sync(self) -> None:
        # A commit that waits for the disk takes every commit before it there; a transaction that
        # has an id is committed, even if it changed nothing.
        await self._durable.change("SELECT pg_current_xact_id()")

    async def close(self) -> None:
        await self._db.close()

    # Statements that others are made of

    async def _step(
        self, change: str, run_id: str, addition: Addition, more: Mapping[str, Any], touch: bool
    ) -> bool:
        values = {
            "run": run_id, "write": _token(), "progress": _text(addition.progress),
            "bodies": [_text(body) for body in addition.bodies], **more,
        }  # fmt: skip
        if addition.events is not None:
            values |= _block(addition.events)
        bodies, events = bool(addition.bodies), addition.events is not None
        doubtful = self._doubts.about(run_id)

        async def take(connection: Connection, again: bool) -> bool:
            statement = sql.step(change, bodies, touch, events, again or doubtful)
            done = await rows(connection, statement, values)
            return bool(done) or (again and await _was_written(connection, values))

        return await self._doubts.step(run_id, self._durable.write(take))

    async def _set_off(
        self,
        statement: str,
        run_id: str,
        process: str,
        lease_until: float,
        more: Mapping[str, Any],
    ) -> bool:
        values = {
            "run": run_id, "process": process, "lease": lease_until, "now": time.time(),
            "write": _token(), **more,
        }  # fmt: skip

        async def set_off(connection: Connection, again: bool) -> bool:
            try:
                done = await rows(connection, statement, values)
            except psycopg.errors.UniqueViolation:
                return False
            return bool(done) or (again and await _was_written(connection, values))

        return await self._doubts.setting_off(run_id, values["write"], self._durable.write(set_off))

    async def _claim(self, process: str, now: float, until: float, gone: list[str]) -> str:
        """Take over what runs under an expired lease or for a process that is gone; the token."""
        token = _token()
        await self._durable.change(
            "UPDATE runs SET process = %(process)s, lease_until = %(until)s, write = %(token)s,"
            " recoveries = recoveries + (lease_until > 0)::int WHERE id IN"
            " (SELECT id FROM runs WHERE status = 'running' AND process <> %(process)s"
            " AND (lease_until < %(now)s OR process = ANY(%(gone)s::text[]))"
            " FOR UPDATE SKIP LOCKED)",
            {"process": process, "until": until, "now": now, "gone": gone, "token": token},
        )
        return token

    async def _delete_thread(self, thread_id: str) -> int:
        values = {"id": thread_id}

        async def delete(connection: Connection, again: bool) -> int:
            # Locked first: who wants to create a run there has done so by then, and is seen, or
            # waits and finds no thread.
            async with connection.transaction():
                await rows(connection, "SELECT FROM threads WHERE id = %(id)s FOR UPDATE", values)
                deleted = await rows(
                    connection,
                    f"DELETE FROM threads WHERE id = %(id)s AND NOT EXISTS ({UNFINISHED})"
                    " RETURNING id",
                    values,
                )
            return len(deleted)

        return await self._durable.write(delete, HOUSEKEEPING_S)


async def _was_written(connection: Connection, values: Mapping[str, Any]) -> bool:
    """Whether it was this very write that was carried out, before the connection broke."""
    found = await rows(
        connection, "SELECT 1 FROM runs WHERE id = %(run)s AND write = %(write)s", values
    )
    return bool(found)


def _block(block: EventBlock) -> dict[str, Any]:
    body = zlib.compress(orjson.dumps(block.events), 1)
    return {"first": block.first, "last": block.last, "block": body}


def _text(value: dict[str, Any]) -> str:
    return orjson.dumps(value).decode()


def _token() -> str:
    return secrets.token_hex(8)
