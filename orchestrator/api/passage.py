"""Requests for a tier: to the engine and back, byte for byte."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import orjson
from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from contracts.errors import EngineError, Unavailable, VarietError
from orchestrator.agent.wire import DONE, TAIL
from orchestrator.api.disconnect import while_connected
from orchestrator.api.errors import encoded, envelope
from orchestrator.assembly import Orchestrator

TIMEOUT = httpx2.Timeout(connect=5, read=None, write=30, pool=None)
CLIENT_GONE = 499
# What the brain's gateway is asked by, and what it tells beside an answer.
ASKED = ("x-request-id", "x-variet-progress", "x-variet-priority")
TOLD = ("retry-after", "x-request-id", "x-variet-model", "x-variet-queue-ms")
ERROR = b'data: {"error":'
ERROR_TAIL = 8_192


async def pass_through(
    whole: Orchestrator, request: Request, model: str, body: dict[str, Any]
) -> Response:
    """The engine's answer. The body goes on as it came, but for the model's name where a tier has
    another one with this engine. A caller who leaves takes the engine's work with him."""
    engine = whole.engine
    name = engine.tiers.get(model, model)
    raw = await request.body() if name == model else orjson.dumps(body | {"model": name})
    headers = {"content-type": "application/json", "accept-encoding": "identity"}
    headers |= {name: request.headers[name] for name in ASKED if name in request.headers}
    if engine.key:
        headers["authorization"] = f"Bearer {engine.key}"
    forwarded = whole.http.build_request(
        "POST", f"{engine.url}/chat/completions", content=raw, headers=headers, timeout=TIMEOUT
    )
    try:
        answer = await while_connected(request, whole.http.send(forwarded, stream=True))
        if answer is None:
            return Response(status_code=CLIENT_GONE)
        if answer.status_code in (401, 403):
            await answer.aclose()
            raise _wrong_key(engine.url, answer.status_code)
        kind = {"content-type": answer.headers.get("content-type", "application/json")}
        kind |= {name: answer.headers[name] for name in TOLD if name in answer.headers}
        if kind["content-type"].startswith("text/event-stream"):
            return StreamingResponse(_events(answer), answer.status_code, kind)
        whole_body = await while_connected(request, answer.aread())
        await answer.aclose()
    except httpx2.HTTPError as error:
        raise Unavailable(
            "engine_unreachable",
            f"The engine at {engine.url} cannot be reached ({type(error).__name__}).",
            "Start it, or correct OPENAI_COMPAT_URL; `variet doctor` checks both.",
        ) from error
    if whole_body is None:
        return Response(status_code=CLIENT_GONE)
    return Response(whole_body, answer.status_code, kind)


async def _events(answer: httpx2.Response) -> AsyncIterator[bytes]:
    """The engine's stream; one that ends without `[DONE]`, as a killed engine's does, gets an
    error as its last event, unless it ends with one."""
    tail = b""
    reason = "it ended without [DONE]"
    try:
        async for chunk in answer.aiter_raw():
            tail = (tail + chunk)[-ERROR_TAIL:]
            yield chunk
    except httpx2.HTTPError as error:
        reason = type(error).__name__
    finally:
        await answer.aclose()
    if DONE in tail[-TAIL:]:
        return
    if not tail.rstrip().rpartition(b"\n")[2].startswith(ERROR):
        broken: VarietError = EngineError(
            "engine_truncated", f"The engine broke off: {reason}.", "Ask again."
        )
        yield b"data: " + encoded(envelope("/v1/", broken)) + b"\n\n"


def _wrong_key(url: str, status: int) -> VarietError:
    return EngineError(
        "engine_key",
        f"The engine at {url} refused the key (HTTP {status}).",
        "Set OPENAI_COMPAT_KEY to the key of that server.",
    )
