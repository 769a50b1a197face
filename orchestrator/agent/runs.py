"""The run registry: every run is driven by a task of this process; HTTP only reads its log.

A request creates a run, a decision continues it, a crash or a restart hands it to the next
process. One run per thread lives at a time; the store holds that rule, not this class.
"""

import logging
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import orjson

from contracts.chat import ENDED, ChatRequest, ChatResponse, RunStatus, ToolRequest
from contracts.errors import Conflict, ErrorBody, Unavailable, VarietError
from orchestrator.agent import messages as wire
from orchestrator.agent.admission import (
    busy,
    check_schema,
    new_run,
    new_thread,
    unknown_run,
    unknown_thread,
)
from orchestrator.agent.drive import Drive, is_decided, shutting_down
from orchestrator.agent.drives import Drives, heard
from orchestrator.agent.log import KEEPALIVE_S, RECOVERY_GAP, LoggedEvent, stored_events
from orchestrator.agent.turn import DIRECT, Parts
from orchestrator.store.records import Addition, RunRecord, ThreadRecord, new_id

LEASE_S = 15.0
MAX_RECOVERIES = 2
ATTEMPTS = 3

log = logging.getLogger(__name__)


class Runs:
    """Starts, continues, stops and follows runs."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.process = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._drives = Drives(parts, self._go_on)

    # Starting

    async def submit(
        self, request: ChatRequest, owner: str, history: Sequence[dict[str, Any]] = ()
    ) -> str:
        """Create a run for a message and start it, or queue it; its id. `history` are messages
        that a new thread begins with. Raises Conflict when the thread is busy and `on_busy` is
        `reject`, NotFound for an unknown thread, Unprocessable for a schema that is none."""
        if request.response_schema is not None:
            check_schema(request.response_schema)
        thread = None
        if request.thread_id is None:
            thread = new_thread(owner, request.message)
        elif await self.parts.store.thread(request.thread_id, owner) is None:
            raise unknown_thread(request.thread_id)
        run = self._new_run(thread, request.thread_id, owner, {"chat": request.model_dump()})
        first = [*history, wire.user(request.message)]
        if request.on_busy != "reject":
            return await self._line_up(run, first, thread, request.on_busy == "interrupt")
        for _ in range(ATTEMPTS):
            if await self.parts.store.create_run(run, first, thread):
                self._drives.start(run)
                return run.id
            other = await self.parts.store.live_run(run.thread_id)
            if other is not None:
                raise busy(other)
        raise Conflict("thread_busy", "The thread stays busy.", "Ask again in a moment.")

    async def submit_tool(self, request: ToolRequest, owner: str) -> str:
        """Create and start a run that is one tool call, made by hand. Its id."""
        self.parts.toolbox.check_arguments(request.name, request.arguments)
        title = f"{request.name} by hand"
        thread = new_thread(owner, title)
        run = self._new_run(thread, None, owner, {DIRECT: request.model_dump()})
        call = (new_id("call"), request.name, orjson.dumps(request.arguments).decode())
        first = [wire.user(title), wire.assistant("", [call])]
        await self.parts.store.create_run(run, first, thread)
        self._drives.start(run)
        return run.id

    # Following

    async def follow(self, run_id: str, after: int = 0) -> AsyncIterator[LoggedEvent | None]:
        """A run's events with ids above `after`, until it rests, has ended or is handed over to
        the next process; None when idle."""
        resting = ENDED | {"awaiting_approval"}
        quiet_since = time.monotonic()
        while True:
            news = self._drives.news
            drive = self._drives.get(run_id)
            if drive is not None:
                async for event in drive.log.follow(after):
                    yield event
                return
            # The record first: what led to the status that it tells is in the log by then.
            record = await self.parts.store.run(run_id)
            for stored in await stored_events(self.parts.store, run_id, after):
                yield stored
                after = stored.id
            if self._drives.closing or record is None or record.status in resting:
                return
            await heard(news)
            if time.monotonic() - quiet_since > KEEPALIVE_S:
                quiet_since = time.monotonic()
                yield None

    async def wait(self, run_id: str) -> ChatResponse:
        """The response, as soon as the run rests or has ended. Raises NotFound for an unknown
        run, Unavailable when this process ends first, StoreError when its end cannot be stored."""
        while True:
            news = self._drives.news
            drive = self._drives.get(run_id)
            if drive is not None:
                await drive.done.wait()
                if drive.failure is not None:
                    raise drive.failure
                if drive.response is not None and not drive.resumed:
                    return drive.response
            record = await self.parts.store.run(run_id)
            if record is None:
                raise unknown_run(run_id)
            if record.response and record.status not in ("queued", "running"):
                return ChatResponse.model_validate(record.response)
            if self._drives.closing:
                raise shutting_down(run_id)
            await heard(news)

    # Stopping and continuing

    async def stop(self, run_id: str) -> RunStatus:
        """Stop a run wherever it is; a run that has ended stays as it is. Its status."""
        while True:
            drive = self._drives.get(run_id)
            if drive is not None:
                drive.stop()
                await drive.done.wait()
            record = await self.parts.store.run(run_id)
            if record is None:
                raise unknown_run(run_id)
            if record.status in ("queued", "awaiting_approval"):
                await self._conclude(record, "stopped")
            elif record.status == "running" and self._drives.get(run_id) is None:
                await self.parts.store.request_stop(run_id)
                return "running"
            elif record.status != "running":
                return record.status

    async def resume(self, run_id: str) -> bool:
        """Continue a resting run after a decision. False if it is not resting (any more)."""
        if self._drives.closing:
            return False
        store = self.parts.store
        record = await store.run(run_id)
        if record is None or not await store.resume_run(run_id, self.process, _lease()):
            return False
        last = await store.last_event(run_id)
        # Another process may have shown events that it never came to store.
        gap = 0 if record.process == self.process else RECOVERY_GAP
        self._drives.start(record, last + gap)
        return True

    async def recover(self) -> None:
        """At start: take over what the last process left."""
        now = time.time()
        orphans = await self.parts.store.claim_orphans(self.process, now, now + LEASE_S)
        if orphans:
            await self.parts.toolbox.gathered()
        await self._take_over_all(orphans)
        await self.catch_up()

    async def catch_up(self) -> None:
        """Continue what was decided and start what waits in line, wherever that was missed."""
        for record in await self.parts.store.resting_runs():
            approvals = await self.parts.journal.approvals_of(record.id)
            if is_decided(approvals, record.progress.get("tool_calls", {})):
                await self.parts.toolbox.gathered()
                await self.resume(record.id)
        for thread_id in await self.parts.store.queued_threads():
            await self._start_next(thread_id)

    async def renew(self) -> None:
        """Extend the leases, stop runs that another process was asked to stop, write down ends
        that could not be written before, and take over runs whose process has gone silent."""
        for run_id in await self.parts.store.renew_leases(self.process, _lease()):
            if drive := self._drives.get(run_id):
                drive.stop()
        await self._drives.retry()
        if not self._drives.closing:
            now = time.time()
            await self._take_over_all(
                await self.parts.store.claim_expired(self.process, now, now + LEASE_S)
            )

    async def shutdown(self, drain_s: float) -> None:
        """Take no new run, let those that run end for `drain_s`, hand over those that have not.
        Called again meanwhile with a shorter time, it hands over sooner."""
        await self._drives.close(drain_s)

    @property
    def active(self) -> int:
        return len(self._drives)

    # Going on

    async def _go_on(self, drive: Drive) -> None:
        """Once a run has settled: its trace, a decision that came meanwhile, the next in line."""
        if drive.response is None:
            return
        drive.trace()
        if drive.response.status != "awaiting_approval":
            await self._start_next(drive.turn.run.thread_id)
        elif await drive.decided():
            drive.resumed = await self.resume(drive.run_id)

    async def _take_over_all(self, records: Sequence[RunRecord]) -> None:
        for record in records:
            try:
                await self._take_over(record)
            except Exception as error:  # boundary: one broken run must not keep the others down
                log.exception("run %s cannot be continued", record.id)
                await self._write_off(record, error)

    async def _take_over(self, record: RunRecord) -> None:
        if record.stop_requested:
            await self._conclude(record, "stopped")
        elif record.recoveries > MAX_RECOVERIES:
            error = Unavailable(
                "crashed_repeatedly",
                f"The orchestrator stopped {record.recoveries} times during this run.",
                "Look at its log before you ask the same again.",
            )
            await self._conclude(record, "failed", error)
        else:
            last = await self.parts.store.last_event(record.id)
            drive = self._drives.start(record, last + RECOVERY_GAP)
            drive.turn.note("recovery", "continued after a restart of the orchestrator")

    async def _conclude(
        self, record: RunRecord, status: RunStatus, error: VarietError | None = None
    ) -> None:
        """End a run that nobody drives, unless it has moved on meanwhile."""
        last = await self.parts.store.last_event(record.id)
        gap = 0 if record.process == self.process and record.status != "running" else RECOVERY_GAP
        drive = Drive(self.parts, record, last + gap)
        if await drive.conclude(status, error, expected=record.status):
            self._drives.tell()
            await self._go_on(drive)

    async def _write_off(self, record: RunRecord, error: Exception) -> None:
        """End a run that is no run: its thread must not stay busy for ever."""
        response = ChatResponse(
            thread_id=record.thread_id,
            run_id=record.id,
            status="failed",
            answer="",
            error=ErrorBody(
                code="unreadable_run",
                message=f"The run's record cannot be read: {type(error).__name__}: {error}",
                remedy="See the orchestrator's log, and report it.",
            ),
        )
        addition = Addition(record.progress)
        body = response.model_dump(mode="json")
        await self.parts.store.settle_run(record.id, "running", "failed", addition, body)

    # Lining up

    async def _line_up(
        self,
        run: RunRecord,
        first: Sequence[dict[str, Any]],
        thread: ThreadRecord | None,
        interrupt: bool,
    ) -> str:
        """Start a run, or let it wait for its thread; an interrupting one stops what is there."""
        if await self.parts.store.create_run(run, first, thread):
            self._drives.start(run)
            return run.id
        await self.parts.store.create_run(replace(run, status="queued", lease_until=0.0))
        for _ in range(ATTEMPTS):
            await self._start_next(run.thread_id)
            record = await self.parts.store.run(run.id)
            if not interrupt or record is None or record.status != "queued":
                break
            other = await self.parts.store.live_run(run.thread_id)
            if other is not None:
                await self.stop(other.id)
        return run.id

    async def _start_next(self, thread_id: str) -> None:
        """Start the first in line, if the thread is free."""
        if self._drives.closing:
            return
        for run in sorted(await self.parts.store.queued_runs(thread_id), key=_rank):
            first = [wire.user(run.request["chat"]["message"])]
            if await self.parts.store.start_run(run.id, self.process, _lease(), first):
                drive = self._drives.start(run)
                waited = round(time.time() - run.created_at, 3)
                drive.turn.note("queue", f"waited {waited:g} s for the thread")
                return

    def _new_run(
        self,
        thread: ThreadRecord | None,
        thread_id: str | None,
        owner: str,
        request: dict[str, Any],
    ) -> RunRecord:
        if self._drives.closing:
            raise Unavailable(
                "shutting_down", "The orchestrator is shutting down.", "Ask again when it is back."
            )
        place = thread.id if thread else str(thread_id)
        return new_run(place, owner, request, self.process, LEASE_S)


def _lease() -> float:
    return time.time() + LEASE_S


def _rank(run: RunRecord) -> tuple[bool, str]:
    """An interrupting run goes before those that only wait, else the oldest goes first."""
    return run.request["chat"]["on_busy"] != "interrupt", run.id
