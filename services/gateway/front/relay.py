"""An engine's answer on its way to the client: bytes as they come."""

import time

import aiohttp
from aiohttp import web

from contracts.errors import EngineError
from services.gateway.front import ending
from services.gateway.front.call import Call
from services.gateway.front.envelope import JSON
from services.gateway.front.outlet import HIGH_WATER
from services.gateway.front.rerank import Translation
from services.gateway.front.routes import DOWNSTREAM, EVENTS, MODEL, QUEUE_MS, REQUEST_ID
from services.gateway.front.thinking import OURS, Lines, renamed
from services.gateway.front.upstream import broke
from services.gateway.gate import Upstream

# A larger answer is passed on in pieces, and cut where its engine breaks off.
WHOLE = 8 * 2**20


async def relay(
    call: Call, source: Upstream, answer: aiohttp.ClientResponse, translation: Translation | None
) -> web.StreamResponse:
    """Pass on an answer of status 200. Raises EngineError; nothing may be sent by then, or a part.
    Raises ClientLeft. Whatever happens, the engine's connection is free or closed afterwards."""
    try:
        events = answer.content_type == EVENTS
        rename = source.spec.entry.reasoning_field not in (None, OURS) and call.route.done
        if call.outlet.response is not None and not events:
            raise _no_stream(source)
        if events or not (translation or rename or _is_short(answer)):
            return await _stream(call, source, answer, events=events, rename=rename)
        return await _whole(call, source, answer, translation, rename=rename)
    finally:
        answer.close()


def _is_short(answer: aiohttp.ClientResponse) -> bool:
    return answer.content_length is not None and answer.content_length <= WHOLE


def _no_stream(source: Upstream) -> EngineError:
    return EngineError(
        "engine_no_stream",
        f"{source.spec.name} was asked for a stream and answers without one.",
        "Ask without `stream`.",
    )


def answer_headers(call: Call, name: str, engine: aiohttp.ClientResponse | None) -> dict[str, str]:
    """What a client gets of an engine's headers, and ours."""
    headers = {"Server": "variet", REQUEST_ID: call.record.request_id, MODEL: name}
    if engine is None:
        headers |= {"Content-Type": EVENTS, "Cache-Control": "no-cache"}
        return headers
    headers[QUEUE_MS] = str(call.record.queue_ms)
    for header in DOWNSTREAM:
        if (value := engine.headers.get(header)) is not None:
            headers[header] = value
    return headers


async def _whole(
    call: Call,
    source: Upstream,
    answer: aiohttp.ClientResponse,
    translation: Translation | None,
    *,
    rename: bool,
) -> web.StreamResponse:
    record, name = call.record, source.spec.name
    try:
        body = await answer.read()
    except (aiohttp.ClientError, OSError) as error:
        raise broke(name, error) from error
    record.first_byte = time.perf_counter()
    headers = answer_headers(call, name, answer)
    # Some engines tell it before a long list, others at the end.
    if len(body) > ending.KEPT:
        ending.take_figures(record, body[: ending.KEPT])
    ending.take_figures(record, body[-ending.KEPT :])
    if translation is not None:
        try:
            body = translation.answer(body, name)
        except (ValueError, TypeError) as error:
            raise broke(name, error) from error
        headers["Content-Type"] = JSON
    elif rename:
        body = renamed(body)
    record.sent = len(body)
    record.status = 200
    if len(body) < HIGH_WATER:
        return web.Response(body=body, headers=headers)
    # With the outlet's time limit, for a client that does not read.
    await call.outlet.open({**headers, "Content-Length": str(len(body))})
    await call.outlet.write(body)
    assert call.outlet.response is not None
    return call.outlet.response


async def _stream(
    call: Call, source: Upstream, answer: aiohttp.ClientResponse, *, events: bool, rename: bool
) -> web.StreamResponse:
    record, outlet = call.record, call.outlet
    read, write = answer.content.readany, outlet.write
    lines = Lines(rename) if events else None
    tail = b""
    cut: Exception | None = None
    while True:
        try:
            piece = await read()
        except (aiohttp.ClientError, OSError) as error:
            cut = error
            break
        if not piece:
            break
        if record.first_byte is None:
            record.first_byte = time.perf_counter()
            if outlet.response is None:
                await outlet.open(answer_headers(call, source.spec.name, answer))
        tail = (
            piece[-ending.KEPT :] if len(piece) >= ending.KEPT else (tail + piece)[-ending.KEPT :]
        )
        if lines is None or (piece := lines.feed(piece)):
            await write(piece)
    ending.take_figures(record, tail)
    if not _is_whole(call, events, tail, cut):
        if outlet.response is not None and events and ending.tells_error(tail):
            record.status = 502
            return outlet.response
        raise broke(source.spec.name, cut)
    if outlet.response is None:
        await outlet.open(answer_headers(call, source.spec.name, answer))
    if lines is not None and (piece := lines.rest()):
        await write(piece)
    assert outlet.response is not None
    record.status = 200
    return outlet.response


def _is_whole(call: Call, events: bool, tail: bytes, cut: Exception | None) -> bool:
    if events and call.route.done:
        return ending.is_done(tail)
    return cut is None
