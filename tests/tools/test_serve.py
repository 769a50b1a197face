"""A tool server as a process of its own: who gets in, what it logs, how it ends."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.server import MCPServer

from contracts.errors import ToolError
from orchestrator.agent.toolbox import Toolbox
from tests.support.tool_process import TOKEN, environment_of, tool_process
from tools.app import MAX_BODY_BYTES, Door, application

CALLER = {
    "authorization": f"Bearer {TOKEN}",
    "content-type": "application/json",
    "accept": "application/json, text/event-stream",
    "host": "calibration:8000",
}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}


@asynccontextmanager
async def door() -> AsyncIterator[httpx2.AsyncClient]:
    """A client of an empty server that may be addressed as `calibration`."""
    server = MCPServer("calibration", log_level="ERROR")
    app = application(server, TOKEN, ["calibration"])
    transport = httpx2.ASGITransport(app=app)
    async with (
        server.session_manager.run(),
        httpx2.AsyncClient(transport=transport, base_url="http://calibration:8000") as client,
    ):
        yield client


async def status(client: httpx2.AsyncClient, **headers: str) -> int:
    answer = await client.post("/mcp", json=LIST, headers=CALLER | headers)
    return int(answer.status_code)


async def test_only_who_has_the_token_gets_in() -> None:
    async with door() as client:
        assert await status(client) == 200
        for wrong in ("", "Bearer", TOKEN, f"bearer {TOKEN}", f"Bearer {TOKEN} ", "Bearer x"):
            assert (wrong, await status(client, authorization=wrong)) == (wrong, 401)
        twice = [*CALLER.items(), ("authorization", "Bearer x")]
        assert (await client.post("/mcp", json=LIST, headers=twice)).status_code == 401
        refused = await client.get("/elsewhere")
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "unauthorized"
        assert refused.headers["www-authenticate"] == "Bearer"


async def test_health_is_open_and_says_no_more_than_ok() -> None:
    async with door() as client:
        answer = await client.get("/health")
        assert (answer.status_code, answer.text) == (200, "ok\n")


async def test_a_web_page_gets_nowhere_even_with_the_token() -> None:
    async with door() as client:
        assert await status(client, host="attacker.example") == 421
        assert await status(client, origin="http://attacker.example") == 403
        assert await status(client, host="calibration") == 200


async def test_a_body_that_is_too_long_is_refused() -> None:
    async with door() as client:
        answer = await client.post("/mcp", content=b" " * (MAX_BODY_BYTES + 1), headers=CALLER)
        assert answer.status_code == 413


async def test_a_stranger_is_refused_before_anything_of_the_body_is_read() -> None:
    sent: list[Any] = []

    async def unread() -> Any:
        raise AssertionError("the body was asked for")

    async def send(message: Any) -> None:
        sent.append(message)

    async def behind(*_: Any) -> None:
        raise AssertionError("it got in")

    scope = {"type": "http", "method": "POST", "path": "/mcp", "headers": []}
    await Door(behind, TOKEN)(scope, unread, send)
    assert sent[0]["status"] == 401
    assert (b"connection", b"close") in sent[0]["headers"]


@pytest.mark.parametrize(
    ("module", "call", "arguments", "outcome"),
    [
        ("calibration", "get_map", {"key": "secret-key"}, "unknown_map"),
        ("logs", "search_logs", {"query": "secret-word"}, "no_folder"),
        ("workspace", "file_operations", {"operation": "read", "path": "secret"}, "no_file"),
    ],
)
async def test_each_serves_logs_a_line_per_call_and_ends_on_a_signal(
    tmp_path: Path, module: str, call: str, arguments: dict[str, Any], outcome: str
) -> None:
    async with tool_process(tmp_path, f"tools.{module}") as process:
        (tmp_path / "workspace/maps").mkdir(parents=True)
        async with Toolbox({module: process.remote()}, 30) as box:
            assert call in box.tools
            with pytest.raises(ToolError) as error:
                await box.call(call, arguments)
        assert await process.ended(signal.SIGTERM) == 0
        assert error.value.code == outcome
        (line,) = [line for line in process.log().splitlines() if call in line]
        assert line.endswith(outcome)
        assert " ms " in line
        assert "secret" not in process.log()


@pytest.mark.parametrize("module", ["calibration", "logs", "workspace"])
async def test_without_a_proper_token_none_starts(tmp_path: Path, module: str) -> None:
    for token, said in (
        ("", "is not set"),
        ("fifteen-letters", "is not 16 or more"),
        ("with a space in the token", "without spaces"),
    ):
        code, error = await started(tmp_path, module, TOOL_TOKEN=token)
        assert code == 1
        assert "TOOL_TOKEN is " in error
        assert said in error
        assert "fifteen" not in error


async def test_an_address_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, error = await started(tmp_path, "logs", TOOL_TOKEN=TOKEN, TOOL_PORT=port)
    assert code == 1
    assert f"TOOL_PORT={port}" in error


async def test_a_wrong_command_line_shows_the_right_one(tmp_path: Path) -> None:
    code, error = await started(tmp_path, "calibration", command="sing")
    assert code == 2
    assert "python -m tools.calibration serve" in error


async def started(
    state: Path, module: str, command: str = "serve", **environment: str
) -> tuple[int | None, str]:
    """The exit code and the standard error of a server that does not start."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", f"tools.{module}", command,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        env=environment_of(state) | environment,
    )  # fmt: skip
    async with asyncio.timeout(60):
        _, error = await process.communicate()
    return process.returncode, error.decode()
