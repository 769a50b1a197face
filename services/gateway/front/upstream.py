"""Requests to engines."""

import asyncio
import os
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import aiohttp
import orjson
from yarl import URL

from contracts.errors import EngineError
from services.gateway.front.limits import Limits
from services.gateway.front.routes import REQUEST_ID
from services.gateway.gate import Upstream

# aiohttp warns of larger ones, which are better sent in pieces.
WHOLE_BODY = 2**20
MAX_ERROR = 256 * 1024
URLS_KEPT = 256


class EngineGone(EngineError):
    """The connection was refused, or ended before the engine answered."""


class EngineBroke(EngineError):
    """The engine began to answer and broke off."""


class Engines:
    """One pool of connections to all engines. Made within a running loop."""

    def __init__(self, limits: Limits) -> None:
        self._urls: dict[tuple[str, str], URL] = {}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=limits.engine_idle),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.connect),
            # An engine that compresses would be passed on compressed, to whoever cannot read it.
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding", "User-Agent"),
            max_line_size=65_536,
            max_field_size=65_536,
        )

    async def close(self) -> None:
        await self._session.close()

    async def post(
        self, to: Upstream, path: str, body: bytes, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """Returns when the engine's headers are there. `headers` are all that it gets beside its
        own key. Raises EngineGone. Cancelled, the connection is closed, which ends its work."""
        try:
            return await self._session.post(
                self._url(to.base_url, path),
                data=body if len(body) <= WHOLE_BODY else BytesIO(body),
                headers={**headers, "Authorization": f"Bearer {to.key}"},
                allow_redirects=False,
            )
        except (aiohttp.ClientError, OSError) as error:
            raise EngineGone(
                "engine_gone",
                f"{to.spec.name} ended before it answered: {_said(error)}.",
                f"Ask again; the gateway's log of it tells why: GET /tiers/{to.spec.name}/logs.",
            ) from error

    def _url(self, base: str, path: str) -> URL:
        url = self._urls.get((base, path))
        if url is None:
            if len(self._urls) >= URLS_KEPT:
                self._urls.clear()
            url = self._urls[base, path] = URL(base + path)
        return url


def request_headers(content_type: str, accept: str, request_id: str) -> dict[str, str]:
    """What an engine gets of a client's request, and nothing else."""
    return {"Content-Type": content_type, "Accept": accept, REQUEST_ID: request_id}


def broke(name: str, error: BaseException | None) -> EngineBroke:
    how = f": {_said(error)}" if error else " without an end"
    return EngineBroke(
        "engine_broke_off",
        f"{name} broke off in the middle of its answer{how}.",
        f"Ask again; the gateway's log of it tells why: GET /tiers/{name}/logs.",
    )


async def read_error(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    """The `error` of an answer that is one, whatever form the engine gave it."""
    body = b""
    try:
        while len(body) < MAX_ERROR and (piece := await answer.content.readany()):
            body += piece
    except (aiohttp.ClientError, OSError):
        return {}
    finally:
        answer.close()
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {"message": body[:500].decode("utf-8", "replace")}
    error = told.get("error", told) if isinstance(told, dict) else told
    if isinstance(error, dict):
        return error
    return {"message": str(error)[:500]}


def _said(error: BaseException) -> str:
    """Without addresses of the engines' network."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return os.strerror(error.errno) if error.errno else "it does not accept connections"
    if isinstance(error, aiohttp.ConnectionTimeoutError | asyncio.TimeoutError):
        return "it does not accept connections in time"
    return "the connection ended"
