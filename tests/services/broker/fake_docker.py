"""A Docker engine as the broker sees it: it writes down what reaches it, and answers from a list of
containers. Nothing is run."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

OURS, THEIRS, GATEWAY = "a" * 64, "b" * 64, "c" * 64
CONTAINERS = {
    OURS: ("variet-brain-engine-nano-0a1b", {"com.docker.compose.project": "variet-brain"}),
    THEIRS: ("database", {"com.docker.compose.project": "shop", "variet.engine": "nano"}),
    GATEWAY: ("variet-brain-gateway-1", {"com.docker.compose.project": "variet-brain"}),
}
CONTAINERS[OURS][1]["variet.engine"] = "nano"


class FakeDocker:
    """`reached`: method, target and body of all calls but the broker's own looks at a container.
    `left`: paths of calls that were ended before their answer was. `headers`: of the last call."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.reached: list[tuple[str, str, bytes]] = []
        self.left = asyncio.Queue[str]()
        self.go_on = asyncio.Event()
        self.headers: Mapping[str, str] = {}
        server = web.Server(self._answer, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)

    async def open(self) -> None:
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self.socket)).start()

    async def close(self) -> None:
        await self._runner.cleanup()

    @property
    def created(self) -> dict[str, Any]:
        """The one body that reached `create`."""
        (body,) = [body for _, target, body in self.reached if "/containers/create" in target]
        made: dict[str, Any] = json.loads(body)
        return made

    @property
    def query(self) -> dict[str, str]:
        """Of the one call that reached it."""
        ((_, target, _),) = self.reached
        return dict(parse_qsl(target.partition("?")[2], keep_blank_values=True))

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        path = request.path
        if request.method == "GET" and path.startswith("/") and path.endswith("/json"):
            name = path.split("/")[-2]
            for identity, (known, labels) in CONTAINERS.items():
                if name == known or identity.startswith(name):
                    config = {"Labels": labels}
                    return web.json_response(
                        {"Id": identity, "Name": f"/{known}", "Config": config}
                    )
            if "/images/" not in path and name != "containers":
                return web.json_response({"message": f"No such container: {name}"}, status=404)
        self.headers = request.headers.copy()
        self.reached.append((request.method, request.raw_path, body))
        if path.endswith("/logs"):
            return await self._log(request)
        if path.endswith(("/start", "/stop", "/kill")):
            return web.Response(status=204)
        if path.endswith("/create"):
            return web.json_response({"Id": OURS, "Warnings": []}, status=201)
        return web.json_response({"path": path})

    async def _log(self, request: web.BaseRequest) -> web.StreamResponse:
        """A line at once, and another when the test says so."""
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            await response.write(b"first\n")
            await self.go_on.wait()
            await response.write(b"second\n")
        except asyncio.CancelledError:
            self.left.put_nowait(request.path)
            raise
        return response
