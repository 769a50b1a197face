"""The events of a run, as its log holds them and as server-sent events carry them.

Each event has a sequence number `id` that only grows within its run (it may leave gaps), a `type`
and `data`. A stream ends with exactly one `end` event per rest: `awaiting_approval`, or one of
`completed`, `stopped`, `failed`.
"""

from typing import Any, Literal

from contracts.base import Message
from contracts.chat import Approval, ChatResponse, Citation, RunStatus, ToolCall, Usage
from contracts.errors import ErrorBody

EventType = Literal[
    "run",
    "stage",
    "token",
    "tool_call",
    "tool_result",
    "approval",
    "citation",
    "usage",
    "error",
    "end",
]


class RunData(Message):
    run_id: str
    thread_id: str
    model: str


class StageData(Message):
    """`name` is one of queue, recovery, compaction, model, engine, tool, approval, structure,
    retry. `ms` is there when the stage has finished. `engine` is a wait within `model` or
    `structure` for a model that is loaded first, or that others use: it is `started` anew with each
    change of its `detail`, such as "balanced: waiting, place 2" or "loading qwen3-4b 40 %", and
    finishes once."""

    name: str
    status: Literal["started", "finished"]
    ms: float | None = None
    detail: str | None = None


class TokenData(Message):
    text: str


class UsageData(Usage):
    """Tokens of the whole run so far."""


class EndData(Message):
    status: RunStatus
    response: ChatResponse


class Event(Message):
    id: int
    type: EventType
    data: dict[str, Any]


DATA_MODELS: dict[str, type[Message]] = {
    "run": RunData,
    "stage": StageData,
    "token": TokenData,
    "tool_call": ToolCall,
    "tool_result": ToolCall,
    "approval": Approval,
    "citation": Citation,
    "usage": UsageData,
    "error": ErrorBody,
    "end": EndData,
}
