"""The tracer's interface, and the choice between none and Langfuse."""

from typing import Protocol

from contracts.settings import Settings
from orchestrator.tracing.record import TurnRecord


class Tracer(Protocol):
    """Neither `trace_url` nor `record` blocks or raises: a trace is never worth a request."""

    def trace_url(self, run_id: str) -> str | None:
        """Where a person sees the run's trace, or None where traces go nowhere."""

    def record(self, turn: TurnRecord) -> None:
        """Take what a run did since the last call. Call it when the run rests and when it ends."""

    async def close(self) -> None:
        """Send what is left, for at most two seconds. Later records are ignored."""


class NoTracer:
    """Traces go nowhere."""

    def trace_url(self, run_id: str) -> str | None:
        return None

    def record(self, turn: TurnRecord) -> None:
        return None

    async def close(self) -> None:
        return None


def make_tracer(settings: Settings) -> Tracer:
    """A Langfuse tracer when the server and both keys are set, else none."""
    url, public, secret = (
        settings.langfuse_base_url,
        settings.langfuse_public_key,
        settings.langfuse_secret_key,
    )
    if not (url and public and secret):
        return NoTracer()

    from orchestrator.tracing.langfuse import LangfuseTracer

    shown = settings.langfuse_public_url
    return LangfuseTracer(url, public, secret.get_secret_value(), public_url=shown)
