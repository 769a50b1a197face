"""A tool server as an ASGI application: MCP at /mcp for whoever has the token, /health for all."""

import hashlib
import hmac
import json
import logging
import time
from collections.abc import Iterable
from typing import Any

from mcp.server import MCPServer
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types import CallToolResult
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from contracts.errors import ErrorBody, ErrorEnvelope

HEALTH, MCP = "/health", "/mcp"
# A written file or a patch has at most 1 MiB, which JSON may escape to six times that.
MAX_BODY_BYTES = 8 * 1024 * 1024
MAX_NAME_LETTERS = 60

log = logging.getLogger("tools")


def application(server: MCPServer, token: str, hosts: Iterable[str]) -> ASGIApp:
    """The server over streamable HTTP, with a log line per call. No session is kept: a restarted
    server serves its old clients. `hosts` are the names that it may be addressed by."""
    server.middleware.append(log_call)
    allowed = [form for host in hosts for form in (host, f"{host}:*")]
    app = server.streamable_http_app(
        streamable_http_path=MCP,
        stateless_http=True,
        max_request_body_size=MAX_BODY_BYTES,
        transport_security=TransportSecuritySettings(allowed_hosts=allowed),
    )
    return Door(app, token)


class Door:
    """Lets in whoever has the token, and answers others before it reads what they send."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = _digest(b"Bearer " + token.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == HEALTH:
            await PlainTextResponse("ok\n")(scope, receive, send)
        elif scope["type"] == "http" and not self._knows(scope):
            host, _ = scope.get("client") or ("somewhere", 0)
            log.warning("refused a caller without the token, from %s", host)
            await _refusal()(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(_digest(given[0]), self._expected)


async def log_call(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """One line per call: the tool, how long it took, what came of it; nothing that was in it."""
    if ctx.method != "tools/call":
        return await call_next(ctx)
    started = time.perf_counter()
    outcome = "stopped"
    try:
        result = await call_next(ctx)
        outcome = _outcome(result)
        return result
    except Exception as error:  # boundary: it is passed on; the line says what it was
        outcome = type(error).__name__
        raise
    finally:
        name = str((ctx.params or {}).get("name"))[:MAX_NAME_LETTERS]
        log.info("%r %.0f ms %s", name, (time.perf_counter() - started) * 1000, outcome)


def _outcome(result: HandlerResult) -> str:
    """`ok`, or the code of the error that the caller is told."""
    if isinstance(result, CallToolResult):
        result = result.model_dump(by_alias=True) if result.is_error else {}
    match result:
        case {"isError": True, "content": [{"text": text}, *_]}:
            return _code(text)
        case {"isError": True}:
            return "error"
    return "ok"


def _code(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return "error"


def _refusal() -> JSONResponse:
    body = ErrorBody(
        code="unauthorized",
        message="This tool server needs its bearer token, and this is not it.",
        remedy="Give both sides the same token: here it is TOOL_TOKEN.",
    )
    # Closing keeps a stranger from sending a body that nobody reads.
    headers = {"www-authenticate": "Bearer", "connection": "close"}
    return JSONResponse(ErrorEnvelope(error=body).model_dump(), 401, headers)


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
