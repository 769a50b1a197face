"""A request's way to an engine and back: let in, asked, passed on; again where that helps."""

import asyncio
import time

import aiohttp
import orjson
from aiohttp import web

from contracts.errors import BadRequest, EngineError
from contracts.gateway_settings import GatewaySettings
from contracts.tiers import Priority
from services.gateway.catalogue import EngineSpec
from services.gateway.front import window
from services.gateway.front.body import asked_of, engine_asked, read_body
from services.gateway.front.call import Call, answer_too_long, body_too_slow
from services.gateway.front.envelope import JSON, shown
from services.gateway.front.limits import Limits
from services.gateway.front.relay import answer_headers, relay
from services.gateway.front.rerank import TEI_PATH, Translation, for_tei
from services.gateway.front.routes import PRIORITY, PROGRESS, PROGRESS_ROUTES
from services.gateway.front.upstream import EngineGone, Engines, read_error, request_headers
from services.gateway.front.waiting import Waiting, comment
from services.gateway.gate import GateProtocol, Lease, Refused, Upstream

MAX_ACCEPT = 256
MAX_ASKED = 256
# An engine refuses our key, or sends us elsewhere: no fault of the client.
NOT_THE_CLIENTS = frozenset({401, 403, 407})
BUSY = frozenset({429, 503})
BUSY_RETRY_S = 1.0


class Proxy:
    """Passes requests on. Every lease that it takes is released, however the request ends."""

    def __init__(
        self, gate: GateProtocol, engines: Engines, settings: GatewaySettings, limits: Limits
    ) -> None:
        self._gate, self._engines, self._limits = gate, engines, limits
        self._max_body = settings.gateway_max_body_mib * 2**20
        self._max_stream = settings.gateway_max_stream_s
        self._body_too_slow = body_too_slow(limits.body)
        self._answer_too_long = answer_too_long(self._max_stream)
        self._clock = asyncio.get_running_loop().time

    async def answer(self, call: Call) -> web.StreamResponse:
        """Raises VarietError, before a byte is sent or after; ClientLeft."""
        spec = await self._asked(call)
        again = True
        while True:
            try:
                answered = await self._attempt(call, spec)
            except EngineGone:
                if not again:
                    raise
                again = False
                # So that whoever owns the engine notices, too, and lets nobody in to a dead one.
                await asyncio.sleep(self._limits.retry_pause)
                continue
            if not isinstance(answered, window.TooLong):
                return answered
            spec = self._longer(call, spec, answered)

    async def _asked(self, call: Call) -> EngineSpec:
        """Read what is asked for, and find the engine that is meant and can take it."""
        request, record, route = call.request, call.record, call.route
        record.priority = _priority(request.headers.get(PRIORITY))
        call.allow(self._clock() + self._limits.body, self._body_too_slow)
        call.body = await read_body(request, self._max_body)
        call.allow(None, call.reason)
        asked = asked_of(route, call.body, request.headers.get("Content-Type", ""))
        call.value = asked.value
        record.asked = (asked.model or "")[:MAX_ASKED]
        spec = engine_asked(self._gate.catalogue, route, asked.model)
        record.engine = spec.name
        if asked.value is not None and route.done:
            while window.surely_too_long(
                asked.value, len(call.body), self._gate.running_context(spec)
            ):
                spec = self._longer(call, spec, window.TooLong(None))
        told = asked.stream and route.name in PROGRESS_ROUTES
        if told and request.headers.get(PROGRESS) == "1":
            headers = answer_headers(call, spec.name, None)
            call.waiting = Waiting(
                lambda: call.outlet.open(headers), call.outlet.write, comment, self._limits
            )
        return spec

    def _longer(self, call: Call, spec: EngineSpec, told: window.TooLong) -> EngineSpec:
        """The engine to ask instead. Raises BadRequest."""
        longer = self._gate.catalogue.longer(spec)
        if longer is None:
            most = told.window or self._gate.running_context(spec)
            raise window.exceeded(spec.name, most, told.tokens, len(call.body))
        call.record.engine = longer.name
        return longer

    async def _attempt(self, call: Call, spec: EngineSpec) -> web.StreamResponse | window.TooLong:
        lease = await self._enter(call, spec)
        try:
            call.record.granted = time.perf_counter()
            call.allow(self._clock() + self._max_stream, self._answer_too_long)
            answered = await self._pass_on(call, lease.upstream)
            if (speed := call.record.tokens_per_s) is not None:
                self._gate.note_speed(lease.upstream.spec, speed)
            return answered
        finally:
            lease.release()
            call.allow(None, call.reason)

    async def _enter(self, call: Call, spec: EngineSpec) -> Lease:
        waiting, record = call.waiting, call.record
        if waiting is None:
            return await self._gate.enter(
                spec, priority=record.priority, request_id=record.request_id
            )
        entering = self._gate.enter(
            spec,
            priority=record.priority,
            request_id=record.request_id,
            on_progress=waiting.note,
        )
        return await waiting.attend(entering, lambda lease: lease.release())

    async def _pass_on(self, call: Call, to: Upstream) -> web.StreamResponse | window.TooLong:
        path, body, translation = _wording(call, to)
        content_type = JSON
        headers = call.request.headers
        if call.route.form == "multipart":
            content_type = headers["Content-Type"]
        accept = headers.get("Accept", "*/*")[:MAX_ACCEPT]
        sent = request_headers(content_type, accept, call.record.request_id)
        asking = self._engines.post(to, path, body, sent)
        if call.waiting is None:
            answer = await asking
        else:
            answer = await call.waiting.attend(asking, aiohttp.ClientResponse.close)
        if answer.status == 200:
            return await relay(call, to, answer, translation)
        return await _declined(call, to, answer)


def _priority(given: str | None) -> Priority:
    if given is None or given == "chat":
        return "chat"
    if given == "background":
        return "background"
    raise BadRequest(
        "bad_priority", f"{PRIORITY}={shown(given)} is not known.", "Send chat or background."
    )


def _wording(call: Call, to: Upstream) -> tuple[str, bytes, Translation | None]:
    """Path and body as this engine takes them."""
    if call.route.form != "rerank" or to.spec.entry.engine != "tei":
        return call.route.path, _named(call, to.spec), None
    translation = for_tei(call.value or {})
    return TEI_PATH, translation.body if translation else call.body, translation


def _named(call: Call, spec: EngineSpec) -> bytes:
    """The body with a name that the engine knows: after a step to a longer window it is another
    engine than the one that was named. A form never takes that step."""
    asked, names = (call.value or {}).get("model"), spec.checked_names
    if not asked or names is None or asked in names:
        return call.body
    return orjson.dumps({**(call.value or {}), "model": spec.name})


async def _declined(
    call: Call, to: Upstream, answer: aiohttp.ClientResponse
) -> web.StreamResponse | window.TooLong:
    """The prompt does not fit, or an error: raises EngineError, Refused."""
    status, name = answer.status, to.spec.name
    error = await read_error(answer)
    if too_long := window.engine_says_too_long(status, error):
        return too_long
    message = str(error.get("message") or "without a word")
    if status in NOT_THE_CLIENTS or not 400 <= status < 600:
        raise EngineError(
            "engine_refused",
            f"{name} refuses the gateway (status {status}): {message}",
            "Load it again: POST /tiers/NAME/unload, then load.",
        )
    told = error.get("code") if isinstance(error.get("code"), str) else error.get("type")
    raise Refused(
        status,
        str(told or "engine_error"),
        f"{name}: {message}",
        "Correct the request." if status < 500 else f"See its log: GET /tiers/{name}/logs.",
        BUSY_RETRY_S if status in BUSY else None,
    )
