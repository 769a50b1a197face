"""Requests and answers of the orchestrator's HTTP API that concern threads, runs and tools."""

from typing import Any, Literal

from pydantic import Field

from contracts.base import Message
from contracts.errors import ErrorBody

RunStatus = Literal["queued", "running", "awaiting_approval", "completed", "stopped", "failed"]
ENDED: frozenset[str] = frozenset({"completed", "stopped", "failed"})
ToolCallStatus = Literal[
    "proposed", "awaiting_approval", "running", "finished", "failed", "rejected", "indeterminate"
]
ApprovalStatus = Literal["pending", "approved", "rejected", "expired"]
Decision = Literal["approve", "reject", "edit"]


class ChatRequest(Message):
    message: str = Field(min_length=1, max_length=200_000)
    thread_id: str | None = Field(None, description="continue this thread; absent: a new one")
    tier: Literal["fast", "balanced", "deep"] | None = None
    stream: bool = False
    on_disconnect: Literal["continue", "stop"] = "continue"
    on_busy: Literal["queue", "interrupt", "reject"] = "reject"
    response_schema: dict[str, Any] | None = Field(
        None, description="JSON Schema that `structured` of the answer has to satisfy"
    )


class ToolCall(Message):
    """One call of a tool within a run. `ms` is the execution's duration in milliseconds."""

    id: str
    name: str
    arguments: dict[str, Any]
    status: ToolCallStatus
    result: Any | None = None
    error: ErrorBody | None = None
    ms: int | None = None


class Approval(Message):
    """A question to the owner of a thread. It binds to `arguments_hash`, a SHA-256 of the tool's
    name and its exact arguments. Times are ISO 8601 in UTC."""

    id: str
    run_id: str
    thread_id: str
    tool_call_id: str
    tool: str
    arguments: dict[str, Any]
    arguments_hash: str
    reason: str
    expires_at: str
    status: ApprovalStatus


class Citation(Message):
    n: int
    source: str
    start_line: int
    end_line: int
    score: float


class Usage(Message):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class ChatResponse(Message):
    thread_id: str
    run_id: str
    status: RunStatus
    answer: str
    structured: Any | None = None
    tool_calls: list[ToolCall] = []
    approvals: list[Approval] = []
    citations: list[Citation] = []
    usage: Usage = Usage()
    latency_ms: int = 0
    model: str = ""
    trace_url: str | None = None
    error: ErrorBody | None = None


class StageTime(Message):
    """How long one stage of a run took. `detail` says which tool or model call it was."""

    name: str
    ms: float
    detail: str | None = None


class RunView(Message):
    """A run's record. `stages` are in order of their end."""

    id: str
    thread_id: str
    status: RunStatus
    created_at: str
    updated_at: str
    message: str
    response: ChatResponse | None = None
    stages: list[StageTime] = []


class Exchange(Message):
    """One engine call, byte for byte: the request body sent and the raw completion received.
    `request_id` is what the engine's log and the trace know it by."""

    n: int
    request_id: str = ""
    request: str
    response: str
    ms: float


class ThreadView(Message):
    id: str
    title: str
    created_at: str
    updated_at: str


class ThreadMessage(Message):
    role: Literal["user", "assistant", "tool"]
    content: str
    run_id: str
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class ThreadDetail(ThreadView):
    messages: list[ThreadMessage]


class ApprovalDecision(Message):
    decision: Decision
    arguments: dict[str, Any] | None = Field(None, description="the new arguments, with `edit`")
    comment: str | None = Field(None, max_length=4_000)
    wait: bool = Field(False, description="answer only when the run rests or has ended")


class ApprovalOutcome(Message):
    run_id: str
    status: RunStatus


class ToolRequest(Message):
    name: str
    arguments: dict[str, Any] = {}


class ToolOutcome(Message):
    result: Any


class ToolPending(Message):
    run_id: str
    approval: Approval


class Check(Message):
    """State of one part. `off` means that it is not configured."""

    status: Literal["ok", "degraded", "down", "off"]
    detail: str
    remedy: str | None = None


class Health(Message):
    status: Literal["ok", "degraded", "down"]
    checks: dict[str, Check]
