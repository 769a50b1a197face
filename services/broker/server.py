"""The broker's own HTTP: reads a call, looks whether it is allowed, and has Docker answer it."""

import asyncio
import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from contracts.broker import DockerHost
from services.broker.body import MAX_BODY, read_create
from services.broker.creation import engine_body
from services.broker.docker_engine import DockerEngine
from services.broker.queries import ENGINE_LABEL, PROJECT_LABEL
from services.broker.refusal import Refusal, shown
from services.broker.routes import Call, read_call

BODY_S, SHUTDOWN_S = 30.0, 1.0
FULL_ID = re.compile(r"[0-9a-f]{64}")
# What would make of a request another one, or of its connection something else than HTTP.
REFUSED_HEADERS = ("Transfer-Encoding", "Upgrade", "Expect", "Content-Encoding", "Trailer", "TE")


class Broker:
    """Answers one request after the other, without any state of its own."""

    def __init__(self, host: DockerHost, docker: DockerEngine) -> None:
        self._host = host
        self._docker = docker

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            _check_headers(request)
            call = read_call(request.method, request.raw_path, self._host)
            body = await _body(request, call)
            return await self._answer(request, call, body)
        except Refusal as refusal:
            note(
                "refused" if refusal.status != 503 else "unanswered",
                method=shown(request.method, 20),
                path=shown(request.raw_path.partition("?")[0]),
                status=refusal.status,
                reason=refusal.message,
            )
            response = web.json_response({"message": refusal.message}, status=refusal.status)
            # What was not read of its body must not be taken for a request.
            response.force_close()
            return response

    async def _answer(
        self, request: web.BaseRequest, call: Call, body: bytes | None
    ) -> web.StreamResponse:
        if call.action == "own_host":
            return web.json_response(text=self._host.model_dump_json())
        if call.action == "own_health":
            return await self._health()
        if call.action == "create":
            assert body is not None, "read for this call"
            made = engine_body(read_create(body), self._host)
            note("create", name=call.query["name"], image=made["Image"], cmd=len(made["Cmd"]))
            told = json.dumps(made).encode()
            return await self._docker.relay(request, call.target(), call.query, told)
        if call.action == "pull":
            note("pull", image=call.query["fromImage"])
        if call.container is not None:
            return await self._of_engine(request, call, call.container)
        return await self._docker.relay(request, call.target(), call.query)

    async def _of_engine(
        self, request: web.BaseRequest, call: Call, name: str
    ) -> web.StreamResponse:
        """A call that names a container. Docker gets its full id, so that it is the one that was
        looked at, whatever is named so meanwhile."""
        status, known = await self._docker.inspect(call.version, name)
        if status != 200:
            return web.json_response(known, status=status)
        identity = self._own_engine(known, name)
        if call.action == "inspect":
            return web.json_response(known)
        if call.action == "delete":
            note("delete", name=shown(known.get("Name")))
        return await self._docker.relay(request, call.target(identity), call.query)

    def _own_engine(self, known: Any, name: str) -> str:
        """The full id of an engine of ours. Raises Refusal for any other container."""
        labels = (known.get("Config") or {}).get("Labels") or {}
        if labels.get(PROJECT_LABEL) != self._host.project or ENGINE_LABEL not in labels:
            raise Refusal(f"the container {shown(name)} is no engine of {self._host.project}")
        identity = known.get("Id")
        if not isinstance(identity, str) or not FULL_ID.fullmatch(identity):
            raise Refusal(f"the container {shown(name)} has no id", 502)
        return identity

    async def _health(self) -> web.Response:
        if await self._docker.answers():
            return web.json_response({"status": "ok"})
        return web.json_response({"message": "Docker does not answer."}, status=503)


def _check_headers(request: web.BaseRequest) -> None:
    for name in REFUSED_HEADERS:
        if name in request.headers:
            raise Refusal(f"the header {name} is not allowed")
    connection = request.headers.getall("Connection", [])
    if any(word.strip().lower() not in ("close", "keep-alive") for word in connection):
        raise Refusal(f"the header Connection: {shown(connection)} is not allowed")


async def _body(request: web.BaseRequest, call: Call) -> bytes | None:
    """The body of `create`; no other call has one."""
    length = request.content_length or 0
    if call.action != "create":
        if length:
            raise Refusal(f"{call.action} takes no body")
        return None
    if length > MAX_BODY:
        raise Refusal(f"the body of {length} bytes is larger than {MAX_BODY}", 413)
    if request.content_type != "application/json":
        raise Refusal(f"the body's type {shown(request.content_type)} is not application/json")
    try:
        async with asyncio.timeout(BODY_S):
            return await request.content.readexactly(length)
    except (TimeoutError, asyncio.IncompleteReadError) as error:
        raise Refusal("the body did not come", 400) from error


class Listening:
    """The broker on its socket, from `open` to `close`."""

    def __init__(self, host: DockerHost, docker: DockerEngine, socket: Path) -> None:
        self._docker = docker
        self._socket = socket
        # Cancellation: a client that leaves ends what it asked Docker for.
        server = web.Server(
            Broker(host, docker).handle,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_S)

    async def open(self) -> None:
        await self._runner.setup()
        site = web.UnixSite(self._runner, str(self._socket))
        await site.start()
        # Whoever has the volume of this socket mounted may use it: the gateway, of another user.
        self._socket.chmod(0o666)

    async def close(self) -> None:
        await self._runner.cleanup()
        await self._docker.close()


def note(event: str, **told: object) -> None:
    """One line of the log."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    level = "info" if event not in ("refused", "unanswered") else "warning"
    line = {"time": time, "level": level, "logger": "broker", "message": event, **told}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
