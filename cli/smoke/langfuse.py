"""A trace, looked up through Langfuse's own API.

`GET /api/public/v2/observations` is the one route of version 4 that shows a trace at once; the
older ones answer 404 there: https://langfuse.com/docs/api-and-data-platform/features/observations-api
"""

import time
from collections.abc import Callable
from typing import Any

import httpx2

from cli.smoke.table import Failed
from contracts.errors import Unauthorized, Unavailable
from contracts.settings import Settings

PATH = "/api/public/v2/observations"
PATIENCE_S = 30.0
POLL_S = 1.0
REQUEST_TIMEOUT = httpx2.Timeout(10.0, connect=5.0)


def find_trace(
    settings: Settings,
    trace_url: str | None,
    wait: Callable[[float], None] = time.sleep,
) -> str:
    """A phrase about the trace that an answer's `trace_url` leads to. Polls for PATIENCE_S: spans
    are sent in batches. Raises Failed when it does not come."""
    base, public = settings.langfuse_base_url, settings.langfuse_public_key
    secret = settings.langfuse_secret_key
    if not (trace_url and base and public and secret):
        raise Failed(
            "The orchestrator sends no traces, although the profile langfuse is selected.",
            "Set LANGFUSE_BASE_URL, LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY: variet init",
        )
    trace = trace_url.rstrip("/").rpartition("/")[2]
    auth = (public, secret.get_secret_value())
    with httpx2.Client(auth=auth, timeout=REQUEST_TIMEOUT, trust_env=False) as http:
        for _ in range(max(1, round(PATIENCE_S / POLL_S))):
            found = _observations(http, base, trace)
            if found:
                names = sorted({str(one.get("name") or one.get("type")) for one in found})
                return f"{len(found)} observations: {', '.join(names)}"
            wait(POLL_S)
    raise Failed(
        f"Langfuse at {base} has no trace {trace} after {PATIENCE_S:.0f} s.",
        "Look at: make logs S=langfuse-worker, and at the orchestrator's log.",
    )


def _observations(http: httpx2.Client, base: str, trace: str) -> list[dict[str, Any]]:
    try:
        answer = http.get(f"{base}{PATH}", params={"traceId": trace, "limit": "100"})
    except httpx2.TransportError as error:
        raise Unavailable(
            "no_langfuse",
            f"Langfuse does not answer at {base}: {error or type(error).__name__}.",
            "Is it up (make ps)? Else check LANGFUSE_BASE_URL.",
        ) from error
    if answer.status_code in (401, 403):
        raise Unauthorized(
            "langfuse_keys",
            f"Langfuse at {base} refused the keys ({answer.status_code}).",
            "Langfuse takes them at its first start only: see docs/operations.md.",
        )
    rows: Any = None
    if answer.is_success:
        try:
            rows = answer.json().get("data")
        except (ValueError, AttributeError):
            rows = None
    if not isinstance(rows, list):
        raise Failed(
            f"{base}{PATH} answered {answer.status_code}: {answer.text[:160]}",
            "Is LANGFUSE_BASE_URL a Langfuse of version 4?",
        )
    return [row for row in rows if isinstance(row, dict) and row.get("traceId", trace) == trace]
