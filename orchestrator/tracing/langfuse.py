"""Langfuse as the tracer.

Of the `langfuse` package this uses the attribute names, and its tests use the trace id. Its client
does not serve here: it cannot give an observation the start and end that were measured, and it
brings exit hooks that wait for the server and three threads. So spans are made with the
OpenTelemetry SDK and posted to Langfuse's documented OTLP route:
https://langfuse.com/integrations/native/opentelemetry
"""

import asyncio
import base64
import urllib.error
import urllib.request
from contextlib import suppress
from typing import Any

from orchestrator.tracing.outbox import FIRST_RETRY_S, LINGER_S, Outbox, Outcome
from orchestrator.tracing.record import TurnRecord
from orchestrator.tracing.spans import SpanEncoder, trace_id

TRACES_PATH = "/api/public/otel/v1/traces"
POST_TIMEOUT_S = 2.0
CLOSE_S = 1.9


class LangfuseTracer:
    """Sends every turn as one trace: session = thread, user = user.

    A request costs its records being appended to a queue; masking, encoding and posting happen in
    one background thread.
    """

    def __init__(
        self,
        base_url: str,
        public_key: str,
        secret_key: str,
        *,
        public_url: str | None = None,
        linger_s: float = LINGER_S,
        first_retry_s: float = FIRST_RETRY_S,
    ) -> None:
        """`public_url`: the server's address for people, where that is another than `base_url`."""
        self._public_url = public_url or base_url
        self._outbox = Outbox(
            SpanEncoder().encode,
            LangfuseEndpoint(base_url, public_key, secret_key).post,
            linger_s=linger_s,
            first_retry_s=first_retry_s,
        )

    def trace_url(self, run_id: str) -> str | None:
        """Langfuse forwards this address to the project that holds the trace."""
        return f"{self._public_url}/trace/{trace_id(run_id)}"

    def record(self, turn: TurnRecord) -> None:
        self._outbox.put(turn)

    async def close(self) -> None:
        """Send what is left, for at most two seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(POST_TIMEOUT_S):
                await asyncio.to_thread(self._outbox.close, CLOSE_S)


class LangfuseEndpoint:
    """Langfuse's OTLP route. Answers say what to do with what was posted, in words for the log."""

    def __init__(self, base_url: str, public_key: str, secret_key: str) -> None:
        self._base_url = base_url
        credentials = base64.b64encode(f"{public_key}:{secret_key}".encode()).decode()
        self._headers = {
            "Authorization": f"Basic {credentials}",
            "Content-Type": "application/x-protobuf",
            "x-langfuse-ingestion-version": "4",
        }
        self._opener = urllib.request.build_opener(_NoRedirects)

    def post(self, body: bytes) -> Outcome:
        """Post a serialized ExportTraceServiceRequest."""
        request = urllib.request.Request(
            self._base_url + TRACES_PATH, data=body, headers=self._headers, method="POST"
        )
        try:
            with self._opener.open(request, timeout=POST_TIMEOUT_S) as response:
                response.read()
        except urllib.error.HTTPError as error:
            with error:
                return self._explain(error.code)
        except (OSError, ValueError) as error:
            return Outcome("away", f"Langfuse at {self._base_url} does not answer ({error}).")
        return Outcome("sent")

    def _explain(self, code: int) -> Outcome:
        if code in (401, 403):
            return Outcome(
                "keys",
                f"Langfuse at {self._base_url} refused the keys ({code}):"
                " check LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY.",
            )
        if code in (400, 413, 422):
            return Outcome("refused", f"Langfuse at {self._base_url} refused a trace ({code}).")
        return Outcome(
            "away", f"Langfuse at {self._base_url} answered {code}: check LANGFUSE_BASE_URL."
        )


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST becomes a GET, which would look like success."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None
