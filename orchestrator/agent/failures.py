"""What went wrong with an engine call, as a person is told it, and whether it may be made again."""

from collections.abc import Mapping
from typing import Any

import httpx2
import openai

from contracts.errors import BadRequest, EngineError, Unavailable, VarietError
from orchestrator.agent.values import mended_text

RETRY_AFTER_MAX_S = 10.0
NOT_NOW = (429, 502, 503)
UNREACHABLE = (httpx2.ConnectError, httpx2.ConnectTimeout)


class ContextOverflow(BadRequest):
    """The engine refused the prompt as too long."""


class NotStarted(Exception):
    """Nothing of the answer has arrived: the call may be made again. `unreachable`: not even a
    connection came about."""

    def __init__(
        self, error: VarietError, retry_after: float = 0.0, unreachable: bool = False
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after = retry_after
        self.unreachable = unreachable


def explained(error: Exception, url: str, started: bool) -> Exception:
    """A VarietError, or NotStarted. `started`: some of the answer has arrived."""
    if isinstance(error, openai.APIStatusError):
        return _refused(error, url)
    if isinstance(error, openai.APIError) and isinstance(error.body, Mapping):
        return _told_in_stream(error, error.body, url, started)
    if started:
        return EngineError(
            "engine_truncated",
            f"The engine at {url} broke off in the middle of its answer.",
            "Ask again; if it stays so, look at the engine's log.",
        )
    unreachable = Unavailable(
        "engine_unreachable",
        f"The engine at {url} cannot be reached.",
        "Start it, or correct OPENAI_COMPAT_URL; `variet doctor` checks both.",
    )
    unreachable.__cause__ = error
    return NotStarted(unreachable, unreachable=_unconnected(error))


def _refused(error: openai.APIStatusError, url: str) -> Exception:
    status = error.status_code
    text = mended_text(error.message[:300])
    if overflow := _overflow(status, text):
        return overflow
    if status in (401, 403):
        return EngineError(
            "engine_key",
            f"The engine at {url} refused the key (HTTP {status}).",
            "Set OPENAI_COMPAT_KEY to the key of that server.",
        )
    failure = _gateway_s(error.body) or EngineError(
        "engine_refused",
        f"The engine at {url} answered HTTP {status}: {text}",
        "Ask again; if it stays so, look at the engine's log.",
    )
    failure.__cause__ = error
    if status in NOT_NOW:
        value = error.response.headers.get("retry-after", "")
        return NotStarted(failure, _seconds(int(value) if value.isdigit() else 0))
    return failure


def _told_in_stream(
    error: openai.APIError, body: Mapping[str, Any], url: str, started: bool
) -> Exception:
    """An error event: the status was sent before it was known."""
    status, text = body.get("status"), mended_text(error.message[:300])
    if not started and (overflow := _overflow(status, text)):
        return overflow
    failure = _gateway_s(body) or EngineError(
        "engine_failed",
        f"The engine at {url} failed while it answered: {text}",
        "Ask again; if it stays so, look at the engine's log.",
    )
    failure.__cause__ = error
    wait = body.get("retry_after")
    if not started and status in NOT_NOW and isinstance(wait, int | float):
        return NotStarted(failure, _seconds(wait))
    return failure


def _overflow(status: object, text: str) -> ContextOverflow | None:
    if status != 400 or not ("context" in text.lower() or "too long" in text.lower()):
        return None
    return ContextOverflow(
        "context_overflow",
        f"The engine's window is too small for this thread: {text}",
        "Start a new thread, or raise MAX_MODEL_LEN.",
    )


def _gateway_s(body: object) -> EngineError | None:
    """The error with the gateway's own code and remedy; None: it is not a gateway's."""
    if not isinstance(body, Mapping):
        return None
    said = [body.get(key) for key in ("code", "message", "remedy")]
    texts = [mended_text(text[:1_000]) for text in said if isinstance(text, str) and text]
    return EngineError(*texts) if len(texts) == len(said) else None


def _unconnected(error: BaseException | None) -> bool:
    """Whether no connection came about; the libraries above wrap that in errors of their own."""
    while error is not None and not isinstance(error, UNREACHABLE):
        error = error.__cause__ or error.__context__
    return error is not None


def _seconds(wait: float) -> float:
    return min(max(0.0, float(wait)), RETRY_AFTER_MAX_S)
