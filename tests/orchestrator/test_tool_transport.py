"""What goes wrong below the protocol of the tools, and servers that still keep sessions."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import uvicorn
from mcp.server import MCPServer
from starlette.types import ASGIApp, Receive, Scope, Send

from contracts.errors import ToolError
from orchestrator.agent import toolservers
from orchestrator.agent.tool_transport import BEGUN, MAX_ANSWER_BYTES, Remote, ToolTransport
from orchestrator.agent.toolbox import Toolbox
from orchestrator.agent.toolservers import SessionLost
from tests.support.probe_tools import Probe

URL = "http://far/mcp"
Handler = Callable[[httpx2.Request], httpx2.Response]


async def asked(handler: Handler, **headers: str) -> httpx2.Response:
    transport = ToolTransport(httpx2.MockTransport(handler), Remote(URL, said_in="far in FILE"))
    async with httpx2.AsyncClient(transport=transport) as client:
        return await client.post(URL, json={}, headers=headers)


async def error_of(handler: Handler, **headers: str) -> tuple[str, bool]:
    """The words, and whether the server may have begun."""
    error = (await asked(handler, **headers)).json()["error"]
    return error["message"], error["data"][BEGUN]


def answers(status: int, text: str = "", **headers: str) -> Handler:
    return lambda _: httpx2.Response(status, text=text, headers=headers)


def raises(error: Exception) -> Handler:
    def handler(_: httpx2.Request) -> httpx2.Response:
        raise error

    return handler


@pytest.mark.parametrize(
    ("handler", "said", "begun"),
    [
        (raises(httpx2.ConnectError("refused")), "it cannot be reached (refused)", False),
        (raises(httpx2.ConnectTimeout("")), "it cannot be reached (ConnectTimeout)", False),
        (raises(httpx2.ReadError("reset")), "the connection broke (reset)", True),
        (raises(httpx2.RemoteProtocolError("gone")), "the connection broke (gone)", True),
        (answers(421, "Invalid\nHost"), "it answers HTTP 421: Invalid Host", False),
        (answers(429), "it answers HTTP 429: without a word", False),
        (answers(500, "oh"), "it answers HTTP 500: oh", True),
        (answers(502, "<html>" + "x" * 500), "it answers HTTP 502: <html>" + "x" * 194, True),
    ],
)
async def test_it_is_told_in_words_and_whether_the_server_can_have_begun(
    handler: Handler, said: str, begun: bool
) -> None:
    assert await error_of(handler) == (said, begun)


async def test_an_answer_of_the_protocol_is_passed_on_whatever_its_status() -> None:
    own = {"jsonrpc": "2.0", "id": 1, "error": {"code": -32602, "message": "wrong"}}
    for status in (200, 400, 404):
        answer = await asked(
            answers(status, json.dumps(own), **{"content-type": "application/json"})
        )
        assert (answer.status_code, answer.json()) == (status, own)


async def test_a_forgotten_session_means_that_nothing_began() -> None:
    own = json.dumps({"jsonrpc": "2.0", "id": None, "error": {"code": 1, "message": "who?"}})
    told = await error_of(answers(404, own), **{"mcp-session-id": "x"})
    assert told == ("it has forgotten the session", False)


async def test_an_answer_that_does_not_end_is_given_up() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65_536

    said, begun = await error_of(lambda _: httpx2.Response(200, content=endless()))
    assert said == f"its answer exceeds {MAX_ANSWER_BYTES} bytes"
    assert begun


def cut_off(app: ASGIApp) -> ASGIApp:
    """The server, whose calls all break off after the beginning of an answer."""

    async def cut(scope: Scope, receive: Receive, send: Send) -> None:
        if (b"mcp-method", b"tools/call") not in scope.get("headers", []):
            await app(scope, receive, send)
            return
        kind = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": kind})
        await send({"type": "http.response.body", "body": b": ping\r\n\r\n"})

    return cut


async def test_an_answer_that_breaks_off_leaves_open_whether_it_took_effect(probe: Probe) -> None:
    app = cut_off(probe.server.streamable_http_app(stateless_http=True))
    async with listening(app) as url, Toolbox({"far": Remote(url)}, 10) as box:
        with pytest.raises(SessionLost):
            await box.call("change", {"text": "a"})
        # What only reads may be asked again; the server itself answers.
        with pytest.raises(ToolError, match="does not answer"):
            await box.call("look", {"text": "a"})
        assert box.down == {}


class Sessions:
    """A server as they were before the protocol had no sessions; it can forget those it has."""

    def __init__(self, server: MCPServer) -> None:
        self.sessions: list[bytes] = []
        self.forgotten: set[bytes] = set()
        self._app: ASGIApp = server.streamable_http_app()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", []))
        session = headers.get(b"mcp-session-id")
        modern = headers.get(b"mcp-protocol-version", b"").startswith(b"2026")
        if scope["type"] == "http" and (modern or session in self.forgotten):
            await _not_found(send)
            return

        async def watched(message: Any) -> None:
            for name, value in message.get("headers", []):
                if name == b"mcp-session-id" and value not in self.sessions:
                    self.sessions.append(value)
            await send(message)

        await self._app(scope, receive, watched)


async def _not_found(send: Send) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def listening(app: ASGIApp) -> AsyncIterator[str]:
    config = uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    listener = config.bind_socket()
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    finally:
        server.should_exit = True
        await task
        listener.close()


async def test_a_session_that_the_server_forgot_is_opened_anew(
    probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolservers, "RETRY_FIRST_S", 0.01)
    app = Sessions(probe.server)
    async with listening(app) as url, Toolbox({"far": Remote(url)}, 10) as box:
        assert (await box.call("change", {"text": "a"}))["text"] == "a"
        assert len(app.sessions) == 1
        app.forgotten.update(app.sessions)
        with pytest.raises(ToolError) as error:
            await box.call("change", {"text": "b"})
        assert error.value.code == "tool_unavailable"
        async with asyncio.timeout(30):
            while True:
                try:
                    again = await box.call("change", {"text": "c"})
                    break
                except ToolError:
                    await asyncio.sleep(0.01)
        assert (again["text"], probe.calls["change"]) == ("c", 2)
        assert len(app.sessions) == 2
