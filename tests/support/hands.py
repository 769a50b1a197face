"""An orchestrator for tests: real stores, real HTTP over a real socket, a scripted engine."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import orjson
import uvicorn
from mcp.server import MCPServer, Server

from contracts.settings import Settings
from orchestrator.agent.model import Engine
from orchestrator.agent.wire import tls
from orchestrator.api.app import create_app
from orchestrator.assembly import Orchestrator, ToolServers
from orchestrator.knowledge.index import Index
from tests.support.no_index import NoIndex


@dataclass
class Hands:
    """A running orchestrator and a client that talks to it."""

    orchestrator: Orchestrator
    client: httpx2.AsyncClient
    url: str

    async def ask(self, message: str, **more: Any) -> dict[str, Any]:
        answer = await self.client.post("/chat", json={"message": message, **more})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def events(self, message: str, **more: Any) -> list[dict[str, Any]]:
        body = {"message": message, "stream": True, **more}
        async with self.client.stream("POST", "/chat", json=body) as answer:
            assert answer.status_code == 200
            return [event async for event in read_events(answer)]

    async def follow(self, run_id: str, after: int = 0) -> list[dict[str, Any]]:
        path = f"/runs/{run_id}/events"
        headers = {"last-event-id": str(after)}
        async with self.client.stream("GET", path, headers=headers) as answer:
            assert answer.status_code == 200
            return [event async for event in read_events(answer)]


async def read_events(answer: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
    """Server-sent events as `{id, type, data}`."""
    event: dict[str, Any] = {}
    async for line in answer.aiter_lines():
        if not line and event:
            yield event
            event = {}
        elif line.startswith("id: "):
            event["id"] = int(line[4:])
        elif line.startswith("event: "):
            event["type"] = line[7:]
        elif line.startswith("data: "):
            event["data"] = orjson.loads(line[6:])


@asynccontextmanager
async def hands(
    engine_url: str,
    state: Path,
    *servers: MCPServer | Server[Any],
    engine: Mapping[str, Any] | None = None,
    index: Index | None = None,
    tool_servers: ToolServers | None = None,
    **settings: Any,
) -> AsyncIterator[Hands]:
    """Start an orchestrator on a free loopback port; stop it at the end."""
    chosen = Settings(
        _env_file=None,
        state_dir=state,
        openai_compat_url=engine_url,
        **settings,
    )
    known: dict[str, Any] = {"url": engine_url, "key": "", "model": "scripted", "context": 8_192}
    orchestrator = Orchestrator(
        chosen,
        Engine(**(known | dict(engine or {}))),
        tool_servers or (lambda _settings, _index: {server.name: server for server in servers}),
        index or NoIndex(),
    )
    # As the orchestrator's own: without the protocol's name asyncio leaves TCP_NODELAY off.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with orchestrator:
        await orchestrator.ready.wait()
        config = uvicorn.Config(create_app(orchestrator), log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        async with httpx2.AsyncClient(base_url=url, timeout=30, verify=tls()) as client:
            try:
                yield Hands(orchestrator, client, url)
            finally:
                server.should_exit = True
                await serving
                listener.close()
