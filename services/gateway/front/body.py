"""A request's body: read once and bounded, and asked only for what the gateway has to know."""

import re
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from contracts.errors import BadRequest, NotFound
from services.gateway.catalogue import Catalogue, EngineSpec
from services.gateway.front.envelope import TooLarge, UnknownEncoding, shown
from services.gateway.front.routes import Route

MAX_MODEL = 256
BOUNDARY = re.compile(r'boundary=(?:"([^"\r\n]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE)
PART_NAME = re.compile(rb'[;\s]name="([^"\r\n]*)"|[;\s]name=([^\s;"]+)', re.IGNORECASE)
MAX_PART_HEAD = 8_192


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for. `value`: its JSON; None of a form."""

    model: str | None
    stream: bool = False
    value: dict[str, Any] | None = None


async def read_body(request: web.BaseRequest, limit: int) -> bytes:
    """All of it. Raises TooLarge, UnknownEncoding, BadRequest."""
    headers = request.headers
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        encoding = shown(headers["Content-Encoding"])
        raise UnknownEncoding(
            "content_encoding", f"Content-Encoding={encoding} is not known.", "Send it as it is."
        )
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    if headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    try:
        return await _all(request, limit)
    except RequestPayloadError as error:
        raise BadRequest(
            "bad_body", "The body's transfer encoding is damaged.", "Send it again."
        ) from error


async def _all(request: web.BaseRequest, limit: int) -> bytes:
    read = request.content.readany
    body = await read()
    if len(body) == request.content_length:
        return body
    pieces = [body]
    size = len(body)
    while piece := await read():
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
        pieces.append(piece)
    if size > limit:
        raise _too_large(limit)
    return b"".join(pieces)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        "too_large",
        f"The body is larger than {limit // 2**20} MiB.",
        "Send less at once, or raise GATEWAY_MAX_BODY_MIB.",
    )


def asked_of(route: Route, body: bytes, content_type: str) -> Asked:
    """Raises BadRequest."""
    if route.form == "multipart":
        return Asked(_form_model(body, content_type))
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(
            "bad_json", f"The body is no JSON: {error}.", "Send a JSON object in UTF-8."
        ) from error
    if not isinstance(value, dict):
        raise BadRequest(
            "bad_json",
            f"The body is JSON, but no object: {shown(value)}.",
            'Send an object, e.g. {"model": "default", ...}.',
        )
    model = value.get("model")
    if model is not None and not isinstance(model, str):
        raise BadRequest(
            "bad_model", f"model={shown(model)} is not text.", "Send a name of GET /v1/models."
        )
    return Asked(model, value.get("stream") is True, value)


def engine_asked(catalogue: Catalogue, route: Route, model: str | None) -> EngineSpec:
    """The engine that is meant. Raises BadRequest, NotFound; both list the names there are."""
    if not model:
        if not route.model_needed:
            return catalogue.resolve(None, route.kinds)
        raise BadRequest("no_model", "The request names no model.", _names(catalogue, route))
    if len(model) > MAX_MODEL:
        raise NotFound(
            "model_not_found",
            f"model={shown(model)} is a name of {len(model)} characters.",
            _names(catalogue, route),
        )
    return catalogue.resolve(model, route.kinds)


def _names(catalogue: Catalogue, route: Route) -> str:
    known = [n for n, spec in catalogue.by_name.items() if spec.entry.kind in route.kinds]
    return f"Ask for one of: {', '.join(sorted(known)) or 'none is configured'}."


def _form_model(body: bytes, content_type: str) -> str | None:
    """The field `model` of a form; the other parts are only stepped over. Raises BadRequest."""
    found = BOUNDARY.search(content_type)
    if found is None or not content_type.lower().startswith("multipart/form-data"):
        raise BadRequest(
            "bad_form",
            f"Content-Type={shown(content_type)} is no multipart/form-data with a boundary.",
            "Send the file and `model` as fields of a form.",
        )
    mark = b"\r\n--" + (found[1] or found[2]).encode("utf-8", "surrogateescape")
    # The first part's mark need not follow a line.
    at = len(mark) - 2 if body.startswith(mark[2:]) else _after(body, mark, 0)
    while at >= 0 and not body.startswith(b"--", at):
        start = body.find(b"\r\n\r\n", at, at + MAX_PART_HEAD)
        end = body.find(mark, at)
        if not 0 <= start < end:
            break
        name = PART_NAME.search(body, at, start)
        if name and (name[1] or name[2]) == b"model":
            return body[start + 4 : min(end, start + 5 + MAX_MODEL)].decode("utf-8", "replace")
        at = end + len(mark)
    return None


def _after(body: bytes, mark: bytes, start: int) -> int:
    at = body.find(mark, start)
    return -1 if at < 0 else at + len(mark)
