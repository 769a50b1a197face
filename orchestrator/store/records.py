"""What the stores hold. Times are seconds since the epoch; `owner` is a principal's name."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from contracts.chat import ApprovalStatus, RunStatus

ExecutionStatus = Literal["started", "finished", "failed", "indeterminate"]


@dataclass(frozen=True, slots=True)
class ThreadRecord:
    id: str
    owner: str
    title: str
    created_at: float
    updated_at: float


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """`body` is a message in OpenAI's form: role, content, tool_calls?, tool_call_id?."""

    seq: int
    run_id: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run. `process` drives it until `lease_until`; `recoveries` counts restarts it survived."""

    id: str
    thread_id: str
    owner: str
    status: RunStatus
    request: dict[str, Any]
    created_at: float
    updated_at: float
    process: str
    lease_until: float
    stop_requested: bool = False
    recoveries: int = 0
    progress: dict[str, Any] = field(default_factory=dict)
    response: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ApprovalRecord:
    id: str
    run_id: str
    thread_id: str
    owner: str
    tool_call_id: str
    tool: str
    arguments: dict[str, Any]
    arguments_hash: str
    reason: str
    status: ApprovalStatus
    created_at: float
    expires_at: float
    decided_by: str | None = None
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class ExecutionRecord:
    """One execution of a tool. `outcome` is {"result": …} or {"error": …} once it has ended."""

    tool_call_id: str
    run_id: str
    tool: str
    arguments_hash: str
    status: ExecutionStatus
    started_at: float
    outcome: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class EventBlock:
    """Consecutive events of one run, each `{"id", "type", "data"}`."""

    first: int
    last: int
    events: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Addition:
    """What a run adds to the store in one step: its messages, its events, how far it has come."""

    progress: dict[str, Any]
    bodies: Sequence[dict[str, Any]] = ()
    events: EventBlock | None = None


_newest = 0


def new_id(prefix: str) -> str:
    """An id that sorts by time, and in one process also within a microsecond: `run_` + 14 hex
    digits of microseconds + 8 random ones."""
    global _newest
    _newest = max(_newest + 1, time.time_ns() // 1_000)
    return f"{prefix}_{_newest:014x}{secrets.token_hex(4)}"


def iso(seconds: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
