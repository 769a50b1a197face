"""Error answers: our envelope everywhere, OpenAI's on its routes."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from contracts.errors import BadRequest, ErrorEnvelope, NotFound, Unprocessable, VarietError

OPENAI_PREFIX = "/v1/"
SHOWN = 60
log = logging.getLogger(__name__)


class OpenAIError(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class OpenAIErrorEnvelope(BaseModel):
    """What OpenAI's clients expect of an error."""

    error: OpenAIError


Responses = dict[int | str, dict[str, Any]]
ERRORS: Responses = {
    "4XX": {"model": ErrorEnvelope, "description": "the request is refused"},
    "5XX": {"model": ErrorEnvelope, "description": "a part that this needs has failed"},
}
OPENAI_ERRORS: Responses = {
    "4XX": {"model": OpenAIErrorEnvelope, "description": "the request is refused"},
    "5XX": {"model": OpenAIErrorEnvelope, "description": "a part that this needs has failed"},
}


def install(app: FastAPI) -> None:
    app.add_exception_handler(VarietError, _variet)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _defect)


def error_response(
    path: str, error: VarietError, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(
        encoded(envelope(path, error)),
        error.status,
        headers={"www-authenticate": "Bearer"} if error.status == 401 else headers,
        media_type="application/json",
    )


def encoded(body: dict[str, Any]) -> bytes:
    # Escaped: what was wrong with a request may be that its text is none, and it is named here.
    return json.dumps(body, separators=(",", ":")).encode()


def envelope(path: str, error: VarietError) -> dict[str, Any]:
    if not path.startswith(OPENAI_PREFIX):
        return {"error": error.body()}
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    return {"error": {"message": str(error), "type": kind, "param": None, "code": error.code}}


def shown(value: object) -> str:
    """A value for an error message, cut to a length that a person reads."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


async def _variet(request: Request, error: Exception) -> Response:
    assert isinstance(error, VarietError)
    return error_response(request.url.path, error)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_response(request.url.path, _explain(error))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 404:
        return error_response(path, NotFound("unknown_route", f"There is no {path}.", "See /docs."))
    if error.status_code == 400:
        return error_response(path, _unreadable(str(error.detail)))
    code = "too_large" if error.status_code == 413 else "refused"
    wrapped = VarietError(code, f"{request.method} {path}: {error.detail}.", "See /docs.")
    wrapped.status = error.status_code
    return error_response(path, wrapped, error.headers)


async def _defect(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    defect = VarietError(
        "internal",
        f"A defect in Variet: {type(error).__name__}.",
        "See the orchestrator's log, and report it.",
    )
    return error_response(request.url.path, defect)


def _explain(error: RequestValidationError) -> VarietError:
    problems = []
    for problem in error.errors()[:5]:
        if problem["type"] == "json_invalid":
            return _unreadable(str(problem.get("ctx", {}).get("error", problem["msg"])))
        where = ".".join(str(part) for part in problem["loc"] if part != "body") or "body"
        problems.append(f"{where[:SHOWN]}={shown(problem.get('input'))}: {problem['msg']}")
    return Unprocessable(
        "bad_request", "; ".join(problems), "Correct the request; /docs shows its form."
    )


def _unreadable(why: str) -> VarietError:
    return BadRequest("bad_json", f"The body is not JSON: {why}.", "Correct it.")
