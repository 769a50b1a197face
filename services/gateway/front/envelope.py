"""Errors as a client sees them: OpenAI's envelope on its routes, ours elsewhere."""

import json
import math
from typing import Any

from aiohttp import web

from contracts.errors import VarietError
from services.gateway.gate import Refused

JSON = "application/json"
SHOWN = 60


class TooLarge(VarietError):
    status = 413


class TooSlow(VarietError):
    status = 408


class MethodNotAllowed(VarietError):
    status = 405


class UnknownEncoding(VarietError):
    status = 415


class Stopping(VarietError):
    """The gateway itself ends."""

    status = 503


STOPPING_RETRY_S = 5.0


def shown(value: object) -> str:
    """A value of a client for an error message: escaped, and cut to what a person reads."""
    text = repr(value[: 2 * SHOWN] if isinstance(value, str | bytes) else value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def retry_after(error: VarietError) -> int | None:
    """Whole seconds, at least 1; None: it would fail again."""
    if isinstance(error, Refused):
        seconds = error.retry_after_s
    else:
        seconds = STOPPING_RETRY_S if isinstance(error, Stopping) else None
    return None if seconds is None else max(1, math.ceil(seconds))


def openai_error(error: VarietError) -> dict[str, Any]:
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    fallback = "invalid_request_error" if error.status < 500 else "server_error"
    return {
        "message": error.message,
        "type": kinds.get(error.status, fallback),
        "code": error.code,
        "param": None,
        "remedy": error.remedy,
    }


def error_answer(error: VarietError, openai: bool) -> web.Response:
    headers = {"Content-Type": JSON, "Server": "variet"}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if (seconds := retry_after(error)) is not None:
        headers["Retry-After"] = str(seconds)
    body = {"error": openai_error(error) if openai else error.body()}
    # Escaped to ASCII: what was wrong with a request may be that its text is none.
    return web.Response(status=error.status, headers=headers, body=json.dumps(body).encode())


def error_event(error: VarietError) -> bytes:
    """An error in a stream whose status was sent long ago."""
    told = {**openai_error(error), "status": error.status, "retry_after": retry_after(error)}
    return f"data: {json.dumps({'error': told})}\n\n".encode()
