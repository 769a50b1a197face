"""Sends what a run did to Langfuse, when its keys are set. Importing this imports neither
`langfuse` nor `opentelemetry`."""

from orchestrator.tracing.record import SpanRecord, TurnRecord
from orchestrator.tracing.tracer import NoTracer, Tracer, make_tracer

__all__ = ["NoTracer", "SpanRecord", "Tracer", "TurnRecord", "make_tracer"]
