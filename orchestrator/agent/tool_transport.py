"""HTTP below the protocol of the tools: what goes wrong there is the answer to that one request.

The protocol's library ends a whole session over one broken connection, and hides the status of a
refusal. Here each becomes a JSON-RPC error that says in words what happened, and whether the server
can have begun with the request.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import httpx2
from mcp import MCPError
from mcp.types import CONNECTION_CLOSED

from orchestrator.agent.values import mended_text
from orchestrator.agent.wire import tls

CONNECT_S = 3.0
# Shorter than servers keep an idle connection (5 s is usual): a request that meets one which is
# being closed may or may not have arrived.
KEEP_IDLE_S = 3.0
MAX_ANSWER_BYTES = 16 * 1024 * 1024
MAX_REFUSAL_LETTERS = 200
INTERNAL_ERROR = -32603
BEGUN = "variet/begun"
# Statuses that a server gives before it looks at the request.
UNSEEN = frozenset({401, 403, 404, 405, 406, 411, 413, 414, 415, 421, 429, 431})


@dataclass(frozen=True, slots=True)
class Remote:
    """A tool server at a URL. `token_env` and `said_in` (where it was configured) are for errors;
    `timeout_s` is for its calls, in place of TOOL_TIMEOUT_S."""

    url: str
    token: str = field(default="", repr=False)
    token_env: str = ""
    timeout_s: float | None = None
    said_in: str = ""


def http_client(remote: Remote) -> httpx2.AsyncClient:
    """A client for this server alone. Proxies of the environment are not for it: its name is one
    of this host or of Compose."""
    headers = {"authorization": f"Bearer {remote.token}"} if remote.token else {}
    limits = httpx2.Limits(
        max_connections=None, max_keepalive_connections=16, keepalive_expiry=KEEP_IDLE_S
    )
    inner = httpx2.AsyncHTTPTransport(verify=tls(), limits=limits, trust_env=False)
    return httpx2.AsyncClient(
        headers=headers,
        timeout=httpx2.Timeout(None, connect=CONNECT_S),
        transport=ToolTransport(inner, remote),
        trust_env=False,
    )


def may_have_begun(error: MCPError) -> bool | None:
    """Whether the server may have begun with the request; None when it answered it itself."""
    if error.error.code == CONNECTION_CLOSED:
        return True  # of the library, for a stream that ended before the answer
    data = error.error.data
    return data.get(BEGUN) if isinstance(data, dict) else None


class ToolTransport(httpx2.AsyncBaseTransport):
    """Answers a POST in the server's place where the server gives no answer of the protocol."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, remote: Remote) -> None:
        self._inner = inner
        self._remote = remote

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "DELETE":
            # The end of a session, which a server that hangs must not hold up.
            request.extensions["timeout"] = httpx2.Timeout(CONNECT_S).as_dict()
        if request.method != "POST":
            return await self._inner.handle_async_request(request)
        try:
            response = await self._inner.handle_async_request(request)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            return _instead(request, f"it cannot be reached ({_words(error)})", begun=False)
        except httpx2.TransportError as error:
            return _instead(request, f"the connection broke ({_words(error)})", begun=True)
        kind = response.headers.get("content-type", "")
        if response.status_code in (202, 204) or kind.startswith("text/event-stream"):
            return response
        try:
            body = await _read(response)
        except httpx2.TransportError as error:
            return _instead(request, f"the connection broke ({_words(error)})", begun=True)
        finally:
            await response.aclose()
        if body is None:
            return _instead(request, f"its answer exceeds {MAX_ANSWER_BYTES} bytes", begun=True)
        if response.status_code >= 400 and not _is_jsonrpc(body):
            begun = response.status_code not in UNSEEN
            return _instead(request, self._refusal(response.status_code, body), begun=begun)
        if response.status_code == 404 and "mcp-session-id" in request.headers:
            return _instead(request, "it has forgotten the session", begun=False)
        headers = {"content-type": kind}
        for name in ("mcp-session-id", "location"):
            if name in response.headers:
                headers[name] = response.headers[name]
        return httpx2.Response(response.status_code, headers=headers, content=body, request=request)

    async def aclose(self) -> None:
        await self._inner.aclose()

    def _refusal(self, status: int, body: bytes) -> str:
        remote = self._remote
        if status in (401, 403) and remote.token_env:
            return (
                f"it answers HTTP {status}: the token in {remote.token_env} is not its own"
                f" ({remote.said_in})"
            )
        if status in (401, 403):
            return f"it answers HTTP {status}: it asks for a token, and {remote.said_in} names none"
        return f"it answers HTTP {status}: {_told(body)}"


async def _read(response: httpx2.Response) -> bytes | None:
    """The decoded body; None when it is too long."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            return None
    return bytes(body)


def _instead(request: httpx2.Request, why: str, begun: bool) -> httpx2.Response:
    error = {"code": INTERNAL_ERROR, "message": why, "data": {BEGUN: begun}}
    body: dict[str, Any] = {"jsonrpc": "2.0", "id": None, "error": error}
    return httpx2.Response(502, json=body, request=request)


def _is_jsonrpc(body: bytes) -> bool:
    try:
        read = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(read, dict) and "jsonrpc" in read


def _told(body: bytes) -> str:
    text = mended_text(body.decode("utf-8", "replace")).strip()
    return " ".join(text.split())[:MAX_REFUSAL_LETTERS] or "without a word"


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
