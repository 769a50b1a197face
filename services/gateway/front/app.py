"""The front: which route a request takes, who may take it, and what becomes of its errors."""

import asyncio
import itertools
import logging
import re
import secrets
import time

import orjson
from aiohttp import web

from contracts.errors import NotFound, VarietError
from contracts.gateway_settings import GatewaySettings
from services.gateway.front.admin import Admin, command_of, json_answer
from services.gateway.front.call import Call
from services.gateway.front.envelope import MethodNotAllowed, Stopping, shown
from services.gateway.front.keys import Keys
from services.gateway.front.limits import Limits
from services.gateway.front.listing import listed, listed_one
from services.gateway.front.outlet import ClientLeft, Outlet
from services.gateway.front.proxy import Proxy
from services.gateway.front.record import CLIENT_LEFT, Book, Record
from services.gateway.front.routes import OPENAI, POSTS, REQUEST_ID, Route
from services.gateway.front.upstream import Engines
from services.gateway.gate import GateProtocol
from services.gateway.metrics import CONTENT_TYPE, Metrics

log = logging.getLogger(__name__)
GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
MODELS = "/v1/models"
OPEN = frozenset({"/health", "/ready"})
# Of HEAD's answer the body stays here.
READING = frozenset({"GET", "HEAD"})
CHECK_S = 0.25
NO_TIME_LIMIT = VarietError("internal", "The request had no time limit.", "Report it.")
# Ids of requests without one: this process's part, and a number.
PROCESS = secrets.token_hex(6)
numbers = itertools.count(1)
# Asked every few seconds by programs; not worth a line each.
PROBES = OPEN | {"/metrics"}


def make_app(
    gate: GateProtocol, settings: GatewaySettings, metrics: Metrics, limits: Limits | None = None
) -> "Front":
    """Raises SettingsError. To be made within the running loop that serves it; `close` it."""
    return Front(gate, settings, metrics, limits or Limits())


class Front:
    """A handler for aiohttp's low-level server. `calls` are the requests that are at an engine, or
    on their way to one."""

    def __init__(
        self, gate: GateProtocol, settings: GatewaySettings, metrics: Metrics, limits: Limits
    ) -> None:
        self._gate, self._limits, self._metrics = gate, limits, metrics
        self._keys = Keys(settings)
        self._engines = Engines(limits)
        self._proxy = Proxy(gate, self._engines, settings, limits)
        self._admin = Admin(gate, limits)
        self._book = Book(metrics)
        self._loop = asyncio.get_running_loop()
        self._check: asyncio.TimerHandle | None = None
        self.calls: set[Call] = set()
        self._emptied = asyncio.Event()
        self._commands: set[asyncio.Task[object]] = set()
        self.stopping = False

    async def close(self) -> None:
        if self._check is not None:
            self._check.cancel()
        self._book.flush()
        await self._engines.close()

    async def emptied(self, seconds: float) -> None:
        """Returns when all requests have ended, or after that time. To be asked while stopping."""
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                if self.calls:
                    await self._emptied.wait()
        except TimeoutError:
            if not limit.expired():
                raise

    def interrupt(self) -> None:
        """End every request that is here, and tell its client why."""
        for call in list(self.calls):
            call.interrupt(self._loop.time(), _stopping())
        for task in self._commands:
            task.cancel()

    def _check_times(self) -> None:
        """One timer for all requests: a timer of each costs more than all else that is done here
        for it."""
        self._check = None
        now = self._loop.time()
        for call in self.calls:
            if call.ends is not None and call.ends <= now:
                call.interrupt(now)
        self._check_later()

    def _check_later(self) -> None:
        if self._check is None and self.calls:
            self._check = self._loop.call_later(CHECK_S, self._check_times)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        route = POSTS.get(path) if request.method == "POST" else None
        record = Record(
            route=route.name if route else "other",
            request_id=_request_id(request),
            began=time.perf_counter(),
            quiet=path in PROBES,
        )
        outlet = Outlet(request, self._limits.slow_client)
        try:
            answer = await self._answer(request, path, query, route, record, outlet)
            record.status = record.status or answer.status
            if not answer.prepared:
                answer.headers[REQUEST_ID] = record.request_id
        except asyncio.CancelledError:
            record.cancelled = True
            record.status = CLIENT_LEFT
            raise
        finally:
            record.sent = record.sent or outlet.sent
            self._book.close(record)
        return answer

    async def _answer(
        self,
        request: web.BaseRequest,
        path: str,
        query: str,
        route: Route | None,
        record: Record,
        outlet: Outlet,
    ) -> web.StreamResponse:
        openai = path.startswith(OPENAI)
        try:
            try:
                if route is not None:
                    return await self._to_engine(request, route, record, outlet)
                return await self._own(request, path, query, record, outlet)
            except VarietError as error:
                record.status = error.status
                return await outlet.fail(error, openai)
            except ClientLeft:
                raise
            except Exception as error:  # boundary: a defect shall end one request, and be told of
                log.exception("%s %s failed", request.method, shown(path))
                record.status = 500
                return await outlet.fail(_defect(error), openai)
        except ClientLeft:
            record.cancelled = True
            record.status = CLIENT_LEFT
            outlet.abort()
            return outlet.response or web.Response(status=CLIENT_LEFT)

    async def _to_engine(
        self, request: web.BaseRequest, route: Route, record: Record, outlet: Outlet
    ) -> web.StreamResponse:
        self._keys.check_page(request.headers)
        record.key = self._keys.user(request.headers)
        if self.stopping:
            raise _stopping()
        limit = asyncio.timeout(None)
        call = Call(request, route, record, outlet, limit, NO_TIME_LIMIT)
        self.calls.add(call)
        self._check_later()
        try:
            async with limit:
                return await self._proxy.answer(call)
        except TimeoutError:
            if not limit.expired():
                raise
            raise call.reason from None
        finally:
            self.calls.discard(call)
            if self.stopping and not self.calls:
                self._emptied.set()

    async def _own(
        self, request: web.BaseRequest, path: str, query: str, record: Record, outlet: Outlet
    ) -> web.StreamResponse:
        """What the gateway answers by itself."""
        method, headers = request.method, request.headers
        if method in READING and path in OPEN:
            return self._probe(path)
        self._keys.check_page(headers)
        command = command_of(method, path)
        if command is not None:
            record.route = command[1]
            record.key = self._keys.admin(headers)
            return await self._commanded(request, outlet, *command, query)
        if (method, path) == ("POST", "/reload"):
            record.route = "reload"
            record.key = self._keys.admin(headers)
            return await self._admin.reload()
        record.key = self._keys.user(headers)
        if method in READING:
            return self._read(path, record)
        raise _no_route(method, path)

    async def _commanded(
        self, request: web.BaseRequest, outlet: Outlet, name: str, command: str, query: str
    ) -> web.StreamResponse:
        """Some have no end: whoever follows a log is sent away when the front stops."""
        task = asyncio.current_task()
        assert task is not None
        self._commands.add(task)
        try:
            return await self._admin.command(request, outlet, name, command, query)
        finally:
            self._commands.discard(task)

    def _probe(self, path: str) -> web.Response:
        """From what is known here; a probe wakes and loads nothing."""
        if path == "/health":
            return json_answer(b'{"status":"ok"}')
        if self.stopping:
            raise _stopping()
        if not self._gate.ready():
            error = VarietError(
                "not_ready", "The gateway cannot take requests yet.", "Ask again in a moment."
            )
            error.status = 503
            raise error
        return json_answer(b'{"status":"ready"}')

    def _read(self, path: str, record: Record) -> web.Response:
        if path == "/metrics":
            headers = {"Content-Type": CONTENT_TYPE, "Server": "variet"}
            return web.Response(body=self._metrics.exposition(), headers=headers)
        if path == "/tiers":
            record.route = "tiers"
            return self._admin.tiers()
        if path == MODELS:
            record.route = "models"
            return json_answer(orjson.dumps(listed(self._gate)))
        if path.startswith(f"{MODELS}/"):
            record.route = "models"
            name = path.removeprefix(f"{MODELS}/")
            return json_answer(orjson.dumps(listed_one(self._gate, name)))
        raise _no_route("GET", path)


def _request_id(request: web.BaseRequest) -> str:
    given = request.headers.get(REQUEST_ID)
    return given if given and GIVEN_ID.fullmatch(given) else f"{PROCESS}{next(numbers):08x}"


def _stopping() -> Stopping:
    return Stopping("stopping", "The gateway is stopping.", "Ask again in a moment.")


def _defect(error: Exception) -> VarietError:
    return VarietError(
        "internal",
        f"A defect in the gateway: {type(error).__name__}.",
        "See the gateway's log, and report it.",
    )


def _no_route(method: str, path: str) -> VarietError:
    if method == "GET" and path in POSTS:
        return MethodNotAllowed("method", f"{shown(path)} is asked with POST.", "Send a POST.")
    return NotFound(
        "unknown_route",
        f"There is no {shown(method)} {shown(path)}.",
        "See GET /v1/models, /tiers.",
    )
