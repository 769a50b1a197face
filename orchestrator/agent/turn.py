"""One drive of a run: what the graph's nodes share while a run is on its way.

A turn begins with a message, or where an approval or a crash left it. `progress` is what it saves
so that it can be continued by another process. `continued` says that something of it may be in
the journal already.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AnyMessage

from contracts.chat import Approval, ChatRequest, ChatResponse, Usage
from contracts.errors import VarietError
from contracts.events import EventType
from orchestrator.agent import messages as wire
from orchestrator.agent.context import Window
from orchestrator.agent.log import RunLog
from orchestrator.agent.model import ChatModel, elapsed_ms
from orchestrator.agent.policy import Policy
from orchestrator.agent.toolbox import Toolbox
from orchestrator.agent.wire import Exchange
from orchestrator.store.interface import Journal, Store
from orchestrator.store.records import Addition, ApprovalRecord, EventBlock, RunRecord, iso
from orchestrator.tracing import SpanRecord, Tracer

DIRECT = "direct"  # a request made by POST /tools/execute: one tool call, no model


@dataclass(frozen=True, slots=True)
class Parts:
    """What every run needs of the process it runs in."""

    store: Store
    journal: Journal
    model: ChatModel
    window: Window
    toolbox: Toolbox
    policy: Policy
    tracer: Tracer
    approval_ttl_s: float
    max_steps: int
    raw_runs: int

    def offered(self) -> list[dict[str, Any]]:
        return self.toolbox.offered(self.model.engine.tools_evaluated)


@dataclass(slots=True)
class Progress:
    """What a run has done so far; saved whenever something depends on it."""

    answer: str = ""
    structured: Any = None
    tool_calls: dict[str, dict[str, Any]] = field(default_factory=dict)
    citations: list[dict[str, Any]] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0
    engine_calls: int = 0
    active_ms: float = 0
    model: str = ""
    compacted: bool = False

    def dump(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass
class Turn:
    """State and effects of one drive of a run."""

    parts: Parts
    run: RunRecord
    log: RunLog

    def __post_init__(self) -> None:
        run = self.run
        self.direct = DIRECT in run.request
        self.request = None if self.direct else ChatRequest(**run.request["chat"])
        self.progress = Progress(**run.progress)
        self.repeats: Counter[str] = Counter()
        self.counted: set[str] = set()
        self.told: set[str] = set()
        self.fatal: VarietError | None = None
        self.continued = bool(run.progress) or run.recoveries > 0
        self.spans: list[SpanRecord] = []
        self._started = time.perf_counter()
        self._partial: list[str] = []

    # Events

    def emit(self, kind: EventType, data: dict[str, Any]) -> None:
        self.log.emit(kind, data)

    def token(self, text: str) -> None:
        self._partial.append(text)
        self.log.emit("token", {"text": text})

    def take_partial(self) -> str:
        """Text streamed since the last message was stored."""
        text = "".join(self._partial)
        self._partial.clear()
        return text

    def stage(self, name: str, detail: str | None = None) -> "Stage":
        return Stage(self, name, detail)

    def note(self, name: str, detail: str) -> None:
        """A stage that takes no time of its own."""
        self.emit("stage", {"name": name, "status": "finished", "ms": 0, "detail": detail})
        self.progress.stages.append({"name": name, "ms": 0, "detail": detail})

    # Messages and progress

    async def append(self, bodies: Sequence[dict[str, Any]]) -> list[AnyMessage]:
        """Store messages of this run, what was emitted before them and how far it has come, in
        one step: after a crash, either all of it is there or nothing."""

        async def save(events: EventBlock | None) -> None:
            addition = Addition(self.progress.dump(), bodies, events)
            await self.parts.store.save_run(self.run.id, addition)

        await self.log.store_with(save)
        return [wire.load(body) for body in bodies]

    async def keep_exchange(self, exchange: Exchange) -> None:
        if self.parts.raw_runs and exchange.request:
            body = b"".join(exchange.response)
            ms = elapsed_ms(exchange.started)
            await self.parts.store.add_exchange(self.run.id, exchange.request, body, ms)

    def request_ids(self) -> Iterator[str]:
        """Names of the run's engine calls, in order: what the brain's log and metrics know them by.
        Each is that of the exchange with the same number."""
        while True:
            self.progress.engine_calls += 1
            yield self.request_id

    @property
    def request_id(self) -> str:
        """Of the newest engine call."""
        return request_id(self.run.id, self.progress.engine_calls)

    def count(self, usage: Usage, model: str) -> None:
        self.progress.prompt_tokens += usage.prompt_tokens
        self.progress.completion_tokens += usage.completion_tokens
        self.progress.model = model
        self.emit("usage", self.usage().model_dump())

    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=self.progress.prompt_tokens,
            completion_tokens=self.progress.completion_tokens,
        )

    def span(self, kind: Any, name: str, started_ns: int, **fields: Any) -> None:
        """Keep a span for the tracer; nothing is sent before the run rests."""
        self.spans.append(
            SpanRecord(
                kind=kind, name=name, started_ns=started_ns, ended_ns=time.time_ns(), **fields
            )
        )

    # Tool calls

    def call_changed(self, call_id: str, kind: EventType = "tool_call", **fields: Any) -> None:
        """Update what is known of a tool call and tell the followers."""
        call = self.progress.tool_calls.setdefault(call_id, {"id": call_id})
        call.update(fields)
        self.emit(kind, call)

    # The answer

    def response(
        self,
        status: Any,
        approvals: Sequence[ApprovalRecord] = (),
        error: VarietError | None = None,
    ) -> ChatResponse:
        """The response as of now. Its latency counts the time driven, not the time at rest."""
        now = elapsed_ms(self._started)
        self.progress.active_ms += now
        self._started = time.perf_counter()
        done = self.progress
        return ChatResponse.model_validate(
            {
                "thread_id": self.run.thread_id,
                "run_id": self.run.id,
                "status": status,
                "answer": done.answer,
                "structured": done.structured,
                "tool_calls": list(done.tool_calls.values()),
                "approvals": [view(a) for a in approvals],
                "citations": done.citations,
                "usage": self.usage(),
                "latency_ms": round(done.active_ms),
                "model": done.model or self.parts.model.engine.model,
                "trace_url": self.parts.tracer.trace_url(self.run.id),
                "error": error.body() if error else None,
            }
        )


class Stage:
    """Times a stage of a run: `with turn.stage("model"): …`. Cancelled stages count too."""

    def __init__(self, turn: Turn, name: str, detail: str | None) -> None:
        self._turn = turn
        self.name = name
        self.detail = detail
        self.ms = 0.0

    def __enter__(self) -> "Stage":
        self._started = time.perf_counter()
        self._turn.emit("stage", self._data("started"))
        return self

    def __exit__(self, *exc: object) -> None:
        self.ms = elapsed_ms(self._started)
        self._turn.emit("stage", self._data("finished") | {"ms": self.ms})
        entry = {"name": self.name, "ms": self.ms, "detail": self.detail}
        self._turn.progress.stages.append(entry)

    def _data(self, status: str) -> dict[str, Any]:
        data = {"name": self.name, "status": status}
        return data | {"detail": self.detail} if self.detail else data


def request_id(run_id: str, number: int) -> str:
    return f"{run_id}.{number}"


def view(record: ApprovalRecord) -> Approval:
    """An approval as the API shows it."""
    return Approval(
        id=record.id,
        run_id=record.run_id,
        thread_id=record.thread_id,
        tool_call_id=record.tool_call_id,
        tool=record.tool,
        arguments=record.arguments,
        arguments_hash=record.arguments_hash,
        reason=record.reason,
        expires_at=iso(record.expires_at),
        status=record.status,
    )
