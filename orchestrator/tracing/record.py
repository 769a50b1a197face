"""What the orchestrator hands over about a run. Times are nanoseconds since the epoch."""

from dataclasses import dataclass
from typing import Any, Literal

from contracts.chat import RunStatus


@dataclass(frozen=True, slots=True)
class SpanRecord:
    """One model call, tool call or stage. `input` and `output` are JSON-like values.

    `prompt_tokens` and `completion_tokens` are for generations; None if the engine gave none.
    `message` says what went wrong when `level` is ERROR. `request_id` is what the engine's log
    knows a generation by.
    """

    kind: Literal["generation", "tool", "stage"]
    name: str
    started_ns: int
    ended_ns: int
    input: Any = None
    output: Any = None
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    level: Literal["DEFAULT", "ERROR"] = "DEFAULT"
    message: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """What happened in a run since it was last recorded: once when it rests on an approval,
    once when it ends.

    `started_ns` is when the run started, the same in every record of the run. `ended_ns` is when
    it came to rest or ended. `message` is the user's, `answer` the assistant's so far.
    """

    run_id: str
    thread_id: str
    user: str
    message: str
    answer: str
    status: RunStatus
    model: str
    started_ns: int
    ended_ns: int
    tags: tuple[str, ...] = ()
    spans: tuple[SpanRecord, ...] = ()

    @property
    def ended(self) -> bool:
        return self.status in ("completed", "stopped", "failed")
