"""One drive of a run by this process: to its rest, to its end, or to the hand-over to the next.

The work is a task of its own, and cancelling it is how a run is stopped. What comes after it, the
writing down of how it went, is never cancelled with it.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from contracts.chat import ChatResponse, RunStatus
from contracts.errors import Unavailable, VarietError
from orchestrator import metrics
from orchestrator.agent import messages as wire
from orchestrator.agent.calls import close_calls
from orchestrator.agent.graph import State, agent
from orchestrator.agent.log import RunLog
from orchestrator.agent.turn import Parts, Turn
from orchestrator.store.records import Addition, ApprovalRecord, EventBlock, RunRecord
from orchestrator.tracing import TurnRecord

GRAPH_STEPS_PER_CALL = 2  # ask and use_tools

log = logging.getLogger(__name__)


class Drive:
    """`done` is set when it is over: with a `response`; with a `failure`, when its end could not
    be written; with neither, when the run was handed over. `resumed` says that it went on at
    once, in another drive, because its approval was decided while it came to rest."""

    def __init__(self, parts: Parts, run: RunRecord, last_event: int = 0) -> None:
        self.log = RunLog(parts.store, run.id, last_event)
        self.turn = Turn(parts, run, self.log)
        self.done = asyncio.Event()
        self.resumed = False
        self.response: ChatResponse | None = None
        self.failure: VarietError | None = None
        self._parts = parts
        self._work: asyncio.Task[bool] | None = None
        self._stopping = False
        self._leaving = False
        self._ending: tuple[RunStatus, VarietError | None] = ("failed", None)

    @property
    def run_id(self) -> str:
        return self.turn.run.id

    def begin(self) -> None:
        model = self._parts.model.engine.name(None)
        data = {"run_id": self.run_id, "thread_id": self.turn.run.thread_id, "model": model}
        self.log.paced = True
        self.log.emit("run", data)
        self._work = asyncio.create_task(self._proceed(), name=self.run_id)

    def stop(self) -> None:
        """Cancel the work, unless it is over or cancelled already."""
        if self._work is not None and not self._stopping and not self._leaving:
            self._stopping = self._work.cancel()

    def hand_over(self) -> None:
        """Cancel the work, and leave the run to the next process."""
        if self._work is not None and not self._stopping and not self._leaving:
            self._leaving = self._work.cancel()

    async def finish(self) -> None:
        """Wait for the work and write down how it went. Raises StoreError if that fails."""
        work = self._work
        assert work is not None
        await asyncio.wait([work])
        error = None if work.cancelled() else work.exception()
        if error is None and not work.cancelled():
            await self.conclude("awaiting_approval" if work.result() else "completed")
        elif self._stopping:
            await self.conclude("stopped")
        elif self._leaving:
            await self._leave()
        else:
            await self.conclude("failed", self._told(error))

    async def conclude(
        self,
        status: RunStatus,
        error: VarietError | None = None,
        expected: RunStatus = "running",
    ) -> bool:
        """Write, in one step, how the run rests or has ended. False if its status is not the
        expected one (any more). Raises StoreError; `retry` then tries the same again."""
        self._ending = status, error
        try:
            settled = await self._settle(status, error, expected)
        finally:
            self.log.close()
        return settled

    async def retry(self) -> None:
        """Write once more what could not be written. Raises StoreError."""
        await self.conclude(*self._ending)

    async def decided(self) -> bool:
        """Whether an approval was decided that the run has not acted on."""
        return is_decided(await self._approvals(), self.turn.progress.tool_calls)

    def trace(self) -> None:
        """Hand what happened to the tracer."""
        turn = self.turn
        if self.response is None:
            return
        self._parts.tracer.record(
            TurnRecord(
                run_id=turn.run.id,
                thread_id=turn.run.thread_id,
                user=turn.run.owner,
                message=turn.request.message if turn.request else "",
                answer=self.response.answer,
                status=self.response.status,
                model=self.response.model,
                started_ns=round(turn.run.created_at * 1e9),
                ended_ns=time.time_ns(),
                spans=tuple(turn.spans),
            )
        )

    async def _proceed(self) -> bool:
        """Go through the graph from where the thread is. True: the run rests."""
        turn = self.turn
        limit = GRAPH_STEPS_PER_CALL * self._parts.max_steps + 10
        while True:
            stored = await self._parts.store.messages(turn.run.thread_id)
            state: State = {"messages": [wire.load(m.body) for m in stored], "resting": False}
            final = await agent().ainvoke(state, {"recursion_limit": limit}, context=turn)
            if not final["resting"]:
                return False
            if not await self.decided():
                return True
            turn.continued = True

    async def _settle(
        self, status: RunStatus, error: VarietError | None, expected: RunStatus
    ) -> bool:
        turn = self.turn
        bodies = await self._loose_ends(status, error)
        if error is not None:
            turn.emit("error", error.body())
        pending = [a for a in await self._asked(status) if a.status == "pending"]
        response = turn.response(status, pending, error)
        body = response.model_dump(mode="json")
        self.log.end({"status": status, "response": body})

        async def save(events: EventBlock | None) -> bool:
            addition = Addition(turn.progress.dump(), bodies, events)
            return await self._parts.store.settle_run(self.run_id, expected, status, addition, body)

        settled = False
        try:
            settled = await self.log.store_with(save)
        finally:
            if not settled:
                self.log.withdraw_end()
        if settled:
            self.response = response
            metrics.count(response)
        return settled

    async def _loose_ends(
        self, status: RunStatus, error: VarietError | None
    ) -> list[dict[str, Any]]:
        """Messages that leave the thread well-formed: open calls answered, the end told."""
        if status not in ("stopped", "failed"):
            return []
        turn = self.turn
        stored = await self._parts.store.messages(turn.run.thread_id)
        messages = [wire.load(m.body) for m in stored if m.run_id == self.run_id]
        reason = "The run was stopped." if status == "stopped" else "The run failed."
        closed = await close_calls(turn, wire.unanswered(messages), reason)
        bodies = [wire.tool(call_id, text) for call_id, text in closed.items()]
        partial = turn.take_partial()
        if partial:
            turn.progress.answer = partial
        if messages and (partial or not wire.answers(messages[-1])):
            mark = "[stopped]" if error is None else f"[failed: {error.code}]"
            bodies.append(wire.assistant(f"{partial}\n{mark}".strip()))
        return bodies

    async def _leave(self) -> None:
        try:
            await self.turn.append([])
            await self._parts.store.release(self.run_id)
        finally:
            self.log.close()

    async def _asked(self, status: RunStatus) -> Sequence[ApprovalRecord]:
        return await self._approvals() if status == "awaiting_approval" else []

    async def _approvals(self) -> list[ApprovalRecord]:
        return await self._parts.journal.approvals_of(self.run_id)

    def _told(self, error: BaseException | None) -> VarietError:
        if isinstance(error, VarietError):
            return error
        if error is not None and not isinstance(error, Exception):
            raise error
        log.error("run %s failed", self.run_id, exc_info=error)
        what = f"{type(error).__name__}: {error}" if error else "its work was cancelled from within"
        return VarietError(
            "internal",
            f"A defect in Variet ended the run: {what}.",
            "See the orchestrator's log, and report it.",
        )


def is_decided(approvals: Sequence[ApprovalRecord], calls: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a run that rests has something to go on with: a decided approval whose call still
    waits, or none that anybody could decide on."""
    if not any(a.status == "pending" for a in approvals):
        return True
    waiting = {i for i, call in calls.items() if call.get("status") == "awaiting_approval"}
    return any(a.status != "pending" and a.tool_call_id in waiting for a in approvals)


def shutting_down(run_id: str) -> Unavailable:
    return Unavailable(
        "shutting_down",
        "The orchestrator is shutting down; the run continues when it is back.",
        f"Read GET /runs/{run_id} then.",
    )
