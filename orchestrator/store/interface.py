"""What the orchestrator asks of its stores. SQLite implements it embedded, PostgreSQL on a server.

Rules that every implementation keeps:
- at most one run per thread is `running` or `awaiting_approval` (create_run, start_run);
- status changes are compare-and-swap: each says whether this call did it;
- journal writes (approvals, executions) are on disk before the call returns, through a power cut;
- a full disk, a damaged or locked store is a StoreError, and leaves what was stored as it was.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from contracts.chat import RunStatus
from orchestrator.store.records import (
    Addition,
    ApprovalRecord,
    EventBlock,
    ExecutionRecord,
    RunRecord,
    StoredMessage,
    ThreadRecord,
)


class Store(Protocol):
    """Threads, messages, runs, event logs and raw exchanges."""

    async def thread(self, thread_id: str, owner: str | None = None) -> ThreadRecord | None: ...
    async def threads(
        self, owner: str, limit: int, before: str | None = None
    ) -> list[ThreadRecord]:
        """Newest first."""
        ...

    async def run_ids(self, thread_ids: Sequence[str]) -> list[str]: ...
    async def delete_threads(self, thread_ids: Sequence[str]) -> int:
        """Delete those on which no run lives or waits, with all that is theirs; how many."""
        ...

    async def idle_threads(self, idle_since: float, owner: str | None = None) -> list[str]:
        """Threads not touched since then on which no run lives or waits."""
        ...

    async def messages(self, thread_id: str) -> list[StoredMessage]: ...

    async def create_run(
        self,
        run: RunRecord,
        first: Sequence[dict[str, Any]] = (),
        thread: ThreadRecord | None = None,
    ) -> bool:
        """In one step: insert the run, its first messages and, if it is new, its thread. False if
        another run lives there. Raises NotFound when the thread is gone."""
        ...

    async def run(self, run_id: str, owner: str | None = None) -> RunRecord | None: ...
    async def runs(self, owner: str, limit: int, before: str | None = None) -> list[RunRecord]:
        """Newest first."""
        ...

    async def live_run(self, thread_id: str) -> RunRecord | None: ...
    async def queued_runs(self, thread_id: str) -> list[RunRecord]:
        """Oldest first."""
        ...

    async def queued_threads(self) -> list[str]: ...
    async def start_run(
        self, run_id: str, process: str, lease_until: float, first: Sequence[dict[str, Any]]
    ) -> bool:
        """In one step: queued → running, with its first messages; False if it is not queued any
        more, or if another run lives on its thread."""
        ...

    async def resume_run(self, run_id: str, process: str, lease_until: float) -> bool:
        """awaiting_approval → running; False if it does not await one (any more)."""
        ...

    async def save_run(self, run_id: str, addition: Addition) -> None:
        """In one step. Raises NotFound when the run is gone."""
        ...

    async def settle_run(
        self,
        run_id: str,
        expected: RunStatus,
        status: RunStatus,
        addition: Addition,
        response: dict[str, Any],
    ) -> bool:
        """In one step: the run rests or ends, with its response and the last that it adds; False
        if its status is not the expected one (any more)."""
        ...

    async def resting_runs(self) -> list[RunRecord]:
        """Runs that await an approval."""
        ...

    async def request_stop(self, run_id: str) -> None: ...
    async def renew_leases(self, process: str, until: float) -> list[str]:
        """Extend this process's leases; the ids of its runs that were asked to stop."""
        ...

    async def claim_orphans(self, process: str, now: float, until: float) -> list[RunRecord]:
        """At start: take over runs that were `running` for a process that is gone, or under an
        expired lease. `recoveries` counts those that were not released."""
        ...

    async def claim_expired(self, process: str, now: float, until: float) -> list[RunRecord]:
        """Take over runs of other processes that let their leases run out; those that it took."""
        ...

    async def release(self, run_id: str) -> None:
        """End this process's lease, so that the next one takes the run over at once."""
        ...

    async def append_events(self, run_id: str, block: EventBlock) -> None: ...
    async def events(self, run_id: str, after: int) -> list[dict[str, Any]]: ...
    async def last_event(self, run_id: str) -> int: ...

    async def add_exchange(
        self, run_id: str, request: bytes, response: bytes, ms: float
    ) -> None: ...
    async def exchanges(self, run_id: str) -> list[tuple[int, bytes, bytes, float]]: ...
    async def prune_exchanges(self, keep_runs: int) -> None:
        """Keep those of the newest runs."""
        ...

    async def checkpoint(self) -> None:
        """Housekeeping of the implementation's own, to be done now and then; it holds up nobody."""
        ...

    async def sync(self) -> None:
        """Bring what was written so far to the disk, so that it survives a power cut."""
        ...

    async def close(self) -> None: ...


class Journal(Protocol):
    """Approvals and executions: what must never be lost or done twice."""

    async def propose(self, approval: ApprovalRecord) -> ApprovalRecord:
        """Write an approval; what is written of its tool call already, if it is not the first."""
        ...

    async def approval(
        self, approval_id: str, owner: str | None = None
    ) -> ApprovalRecord | None: ...
    async def approvals(self, owner: str, limit: int) -> list[ApprovalRecord]:
        """Pending ones, oldest first."""
        ...

    async def approvals_of(self, run_id: str) -> list[ApprovalRecord]: ...
    async def decide(
        self,
        approval_id: str,
        status: str,
        decided_by: str,
        comment: str | None,
        arguments: dict[str, Any] | None,
        arguments_hash: str | None,
    ) -> bool:
        """pending → status; False if it was decided already."""
        ...

    async def overdue(self, now: float) -> list[ApprovalRecord]: ...

    async def begin(self, execution: ExecutionRecord) -> ExecutionRecord | None:
        """Write that an execution starts. None: go ahead; else what is written already."""
        ...

    async def finish(self, tool_call_id: str, status: str, outcome: dict[str, Any]) -> None: ...
    async def executions_of(self, run_id: str) -> list[ExecutionRecord]: ...
    async def forget(self, run_ids: Sequence[str]) -> None: ...
    async def close(self) -> None: ...
