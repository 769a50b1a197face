"""The routes that tell of the engines and command them."""

from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import unquote

import orjson
from aiohttp import web
from pydantic import ValidationError

from contracts.errors import BadRequest, NotFound, SettingsError, VarietError
from contracts.tiers import EngineStatus, SwapProgress, Switch
from services.gateway.catalogue import EngineSpec
from services.gateway.front.body import read_body
from services.gateway.front.envelope import JSON, shown
from services.gateway.front.limits import Limits
from services.gateway.front.outlet import Outlet
from services.gateway.front.routes import EVENTS
from services.gateway.front.waiting import Waiting
from services.gateway.gate import GateProtocol

MAX_BODY = 65_536
TEXT = {
    "Content-Type": "text/plain; charset=utf-8",
    "Cache-Control": "no-store",
    "Server": "variet",
}
STREAM = {"Content-Type": EVENTS, "Cache-Control": "no-cache", "Server": "variet"}


class BadConfiguration(VarietError):
    """What was read again is wrong; the former configuration stays."""

    status = 422


def json_answer(body: bytes) -> web.Response:
    return web.Response(body=body, headers={"Content-Type": JSON, "Server": "variet"})


def command_of(method: str, path: str) -> tuple[str, str] | None:
    """Engine and command of /tiers/NAME/COMMAND; None: there is no such route."""
    name, slash, command = path.removeprefix("/tiers/").rpartition("/")
    commands = ("logs",) if method == "GET" else ("load", "unload", "pin", "lock")
    if not name or not slash or not path.startswith("/tiers/"):
        return None
    return (unquote(name), command) if method in ("GET", "POST") and command in commands else None


class Admin:
    def __init__(self, gate: GateProtocol, limits: Limits) -> None:
        self._gate, self._limits = gate, limits

    def tiers(self) -> web.Response:
        return json_answer(self._gate.status().model_dump_json().encode())

    async def reload(self) -> web.Response:
        """Raises BadConfiguration."""
        try:
            reloaded = await self._gate.reload()
        except SettingsError as error:
            raise BadConfiguration(error.code, error.message, error.remedy) from error
        return json_answer(reloaded.model_dump_json().encode())

    async def command(
        self, request: web.BaseRequest, outlet: Outlet, name: str, command: str, query: str
    ) -> web.StreamResponse:
        """Raises VarietError, ClientLeft."""
        spec = self._spec(name)
        if command == "logs":
            return await _text(outlet, self._gate.logs(spec, "follow=1" in query.split("&")))
        body = await read_body(request, MAX_BODY)
        if command == "load":
            return await self._load(request, outlet, spec)
        if command == "unload":
            await self._gate.unload(spec)
        else:
            act: Callable[[EngineSpec, bool], None] = getattr(self._gate, command)
            act(spec, _switch(body).on)
        return json_answer(self._status(spec))

    def _spec(self, name: str) -> EngineSpec:
        names = self._gate.catalogue.by_name
        if (spec := names.get(name)) is None:
            raise NotFound(
                "unknown_tier",
                f"There is no tier, alias or model {shown(name)}.",
                f"Name one of: {', '.join(sorted(names))}.",
            )
        return spec

    def _status(self, spec: EngineSpec) -> bytes:
        found = [engine for engine in self._gate.status().engines if engine.name == spec.name]
        status: EngineStatus | None = found[0] if found else None
        return status.model_dump_json().encode() if status else b"null"

    async def _load(
        self, request: web.BaseRequest, outlet: Outlet, spec: EngineSpec
    ) -> web.StreamResponse:
        if EVENTS not in request.headers.get("Accept", ""):
            await self._gate.load(spec)
            return json_answer(self._status(spec))
        await outlet.open(STREAM)
        assert outlet.response is not None
        waiting = Waiting(None, outlet.write, _event, self._limits)
        try:
            await waiting.attend(self._gate.load(spec, waiting.note), lambda _: None)
        except VarietError as error:
            await outlet.write(_named("error", orjson.dumps(error.body())))
        else:
            await outlet.write(_named("done", self._status(spec)))
        return outlet.response


def _event(progress: SwapProgress) -> bytes:
    return _named("progress", progress.model_dump_json().encode())


def _named(event: str, data: bytes) -> bytes:
    return b"event: " + event.encode() + b"\ndata: " + data + b"\n\n"


async def _text(outlet: Outlet, lines: AsyncIterator[bytes]) -> web.StreamResponse:
    await outlet.open(TEXT)
    assert outlet.response is not None
    try:
        async for line in lines:
            await outlet.write(line)
    finally:
        close: Any = getattr(lines, "aclose", None)
        if close is not None:
            await close()
    return outlet.response


def _switch(body: bytes) -> Switch:
    try:
        return Switch.model_validate_json(body or b"{}")
    except ValidationError as error:
        raise BadRequest(
            "bad_switch", f"The body {shown(body)} is no switch.", 'Send {"on": true} or false.'
        ) from error
