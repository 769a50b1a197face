"""The Docker engine, by its socket."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, UnixConnector, web
from yarl import URL

from services.broker.refusal import Refusal, shown

CONNECT_S, SHORT_S, PING_S = 5.0, 30.0, 3.0
# Of Docker's answers; the SDK reads them.
KEPT = ("Content-Type", "Api-Version", "Docker-Experimental", "Ostype", "Server")


class DockerEngine:
    """Asks one Docker engine. Calls raise Refusal with 503 when it does not answer."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._session = ClientSession(
            connector=UnixConnector(str(socket), limit=0),
            timeout=ClientTimeout(total=None, sock_connect=CONNECT_S),
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
        )

    async def close(self) -> None:
        await self._session.close()

    async def answers(self) -> bool:
        try:
            async with asyncio.timeout(PING_S), self._session.get(_url("/_ping")) as answer:
                return answer.status == 200
        except (ClientError, OSError):
            return False

    async def inspect(self, version: str, name: str) -> tuple[int, Any]:
        """What Docker knows of a container, with the status of its answer."""
        try:
            async with (
                asyncio.timeout(SHORT_S),
                self._session.get(_url(f"{version}/containers/{name}/json")) as answer,
            ):
                return answer.status, await answer.json(content_type=None)
        except (ClientError, OSError, ValueError) as error:
            raise self._silent(error) from error

    async def relay(
        self,
        request: web.BaseRequest,
        target: str,
        query: Mapping[str, str],
        body: bytes | None = None,
    ) -> web.StreamResponse:
        """Ask Docker, and hand on its answer as it comes. Whoever asked may leave: the handler is
        then cancelled, and the call to Docker ends with it."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        response: web.StreamResponse | None = None
        try:
            async with self._session.request(
                request.method,
                _url(target, query),
                data=body,
                headers=headers,
                allow_redirects=False,
            ) as answer:
                response = web.StreamResponse(status=answer.status)
                response.headers.update({k: answer.headers[k] for k in KEPT if k in answer.headers})
                response.content_length = answer.content_length
                await response.prepare(request)
                async for data in answer.content.iter_any():
                    await response.write(data)
                await response.write_eof()
                return response
        except (ClientError, OSError) as error:
            if response is None or not response.prepared:
                raise self._silent(error) from error
            # The answer has begun: its end must not look like one.
            if request.transport is not None:
                request.transport.abort()
            return response

    def _silent(self, error: Exception) -> Refusal:
        return Refusal(f"Docker does not answer at {self._socket}: {shown(str(error))}", 503)


def _url(target: str, query: Mapping[str, str] | None = None) -> URL:
    """`target` is escaped already."""
    return URL(f"http://docker{target}", encoded=True).with_query(query or None)
