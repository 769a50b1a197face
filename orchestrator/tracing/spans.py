"""Turns records into OTLP spans with Langfuse's attributes.

One trace per run. Its id comes from the run's id the way Langfuse's `create_trace_id(seed=...)`
makes it, and span ids come from the run and the span, so a run that rests on an approval, or that
is recorded again after a restart, continues the same trace.

The root span is sent once, when the run has ended. Langfuse stores a span under its start time and
id and replaces it only when a background merge happens, so sending the root at every rest would
count it twice until then. Every span carries the trace's name, session, user and tags, so a run
that waits is a trace already.

Attributes: https://langfuse.com/integrations/native/opentelemetry#property-mapping
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from langfuse import LangfuseOtelSpanAttributes as Attributes
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from orchestrator.tracing.masking import mask
from orchestrator.tracing.record import SpanRecord, TurnRecord

TEXT_LIMIT = 200_000  # characters of one input or output; Langfuse takes a few MB per request
TRACE_NAME = "turn"
OBSERVATION_TYPES = {"generation": "generation", "tool": "tool", "stage": "span"}


def trace_id(run_id: str) -> str:
    """32 hex digits; equal to `Langfuse.create_trace_id(seed=run_id)`."""
    return hashlib.sha256(run_id.encode()).hexdigest()[:32]


class SpanEncoder:
    """Encodes turns. Its own tracer provider keeps it apart from the process's global one.

    For use by one thread.
    """

    def __init__(self) -> None:
        self._ids = _GivenIds()
        provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource({"service.name": "variet", "service.version": _version()}),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._tracer = provider.get_tracer("variet", _version())

    def encode(self, turn: TurnRecord) -> bytes:
        """The turn as a serialized OTLP ExportTraceServiceRequest; empty if it has no spans."""
        spans = list(self._spans(turn))
        return encode_spans(spans).SerializeToString() if spans else b""

    def _spans(self, turn: TurnRecord) -> Iterator[ReadableSpan]:
        common = _trace_attributes(turn)
        trace = int(trace_id(turn.run_id), 16)
        root = _span_id(turn.run_id)
        parent = SpanContext(trace, root, is_remote=True, trace_flags=TraceFlags.get_default())
        below_root = set_span_in_context(NonRecordingSpan(parent), Context())
        for record, identity in zip(turn.spans, _identities(turn.spans), strict=True):
            self._ids.use(trace, _span_id(turn.run_id, *identity))
            attributes = common | _span_attributes(record, turn)
            yield self._span(
                record.name, record.started_ns, record.ended_ns, below_root, attributes
            )
        if turn.ended:
            self._ids.use(trace, root)
            attributes = common | _root_attributes(turn)
            yield self._span(TRACE_NAME, turn.started_ns, turn.ended_ns, Context(), attributes)

    def _span(
        self,
        name: str,
        started_ns: int,
        ended_ns: int,
        context: Context,
        attributes: dict[str, Any],
    ) -> ReadableSpan:
        span = self._tracer.start_span(name, context, attributes=attributes, start_time=started_ns)
        if attributes[Attributes.OBSERVATION_LEVEL] == "ERROR":
            message = attributes.get(Attributes.OBSERVATION_STATUS_MESSAGE)
            span.set_status(Status(StatusCode.ERROR, message))
        span.end(max(started_ns, ended_ns))
        if not isinstance(span, ReadableSpan):
            raise TypeError("OTEL_SDK_DISABLED is set, so OpenTelemetry makes no spans")
        return span


class _GivenIds(IdGenerator):
    """Hands out the ids that it was given, in place of random ones."""

    def __init__(self) -> None:
        self._trace = self._span = 0

    def use(self, trace: int, span: int) -> None:
        self._trace, self._span = trace, span

    def generate_trace_id(self) -> int:
        return self._trace

    def generate_span_id(self) -> int:
        return self._span


def _trace_attributes(turn: TurnRecord) -> dict[str, Any]:
    return {
        Attributes.TRACE_NAME: TRACE_NAME,
        Attributes.TRACE_SESSION_ID: turn.thread_id,
        Attributes.TRACE_USER_ID: turn.user,
        Attributes.TRACE_TAGS: list(turn.tags),
    }


def _root_attributes(turn: TurnRecord) -> dict[str, Any]:
    return {
        Attributes.OBSERVATION_TYPE: "agent",
        Attributes.OBSERVATION_LEVEL: "ERROR" if turn.status == "failed" else "DEFAULT",
        Attributes.OBSERVATION_INPUT: _text(turn.message),
        Attributes.OBSERVATION_OUTPUT: _text(turn.answer),
        f"{Attributes.OBSERVATION_METADATA}.run_id": turn.run_id,
        f"{Attributes.OBSERVATION_METADATA}.status": turn.status,
        f"{Attributes.OBSERVATION_METADATA}.model": turn.model,
    }


def _span_attributes(span: SpanRecord, turn: TurnRecord) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        Attributes.OBSERVATION_TYPE: OBSERVATION_TYPES[span.kind],
        Attributes.OBSERVATION_LEVEL: span.level,
    }
    if span.input is not None:
        attributes[Attributes.OBSERVATION_INPUT] = _text(span.input)
    if span.output is not None:
        attributes[Attributes.OBSERVATION_OUTPUT] = _text(span.output)
    if span.message:
        attributes[Attributes.OBSERVATION_STATUS_MESSAGE] = _text(span.message)
    if span.request_id:
        attributes[f"{Attributes.OBSERVATION_METADATA}.request_id"] = span.request_id
    if span.kind != "generation":
        return attributes
    attributes[Attributes.OBSERVATION_MODEL] = span.model or turn.model
    usage = {"input": span.prompt_tokens, "output": span.completion_tokens}
    known = {name: tokens for name, tokens in usage.items() if tokens is not None}
    if known:
        attributes[Attributes.OBSERVATION_USAGE_DETAILS] = json.dumps(known)
    return attributes


def _text(value: Any) -> str:
    masked = mask(value)
    text = (
        masked if isinstance(masked, str) else json.dumps(masked, ensure_ascii=False, default=str)
    )
    if len(text) <= TEXT_LIMIT:
        return text
    return f"{text[:TEXT_LIMIT]}… [{len(text) - TEXT_LIMIT} characters left out]"


def _identities(spans: Sequence[SpanRecord]) -> Iterator[tuple[str | int, ...]]:
    """What tells a span from the others of its run, the same whenever it is recorded again."""
    seen: dict[tuple[str | int, ...], int] = {}
    for span in spans:
        identity = (span.kind, span.name, span.started_ns, span.ended_ns)
        seen[identity] = twin = seen.get(identity, -1) + 1
        yield (*identity, twin)


def _span_id(run_id: str, *parts: str | int) -> int:
    seed = "\0".join(str(part) for part in ("span", run_id, *parts))
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8]) or 1


def _version() -> str:
    try:
        return version("variet")
    except PackageNotFoundError:
        return "unknown"
