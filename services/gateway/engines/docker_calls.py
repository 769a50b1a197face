"""Docker, as far as engines need it: the SDK in threads of its own, each call with a time limit.

Waiting for a container's end, and following its log, last as long as the container. They are asked
for on the event loop, so that giving them up gives up the connection, and no thread stays behind.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import requests
from docker import APIClient  # type: ignore[import-untyped]
from docker.errors import DockerException, NotFound  # type: ignore[import-untyped]

from contracts.broker import DockerHost
from contracts.errors import Unavailable

# Docker 25, whose health checks and labels the stacks need anyway.
API_VERSION = "1.44"
CALL_S = 60.0
THREADS = 8
FRAME = 8
WATCH_AGAIN_S = 1.0

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a container ended. `gone`: it was removed, so nothing more is known."""

    code: int | None
    out_of_memory: bool
    gone: bool = False


class DockerCalls:
    """One connection to Docker at `socket`, the broker's or the engine's own."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="docker")
        self._api = APIClient(
            base_url=f"unix://{socket}", version=API_VERSION, timeout=CALL_S, max_pool_size=THREADS
        )
        self._session: aiohttp.ClientSession | None = None

    async def call(
        self,
        method: Callable[..., Result],
        *args: object,
        **kwargs: object,
    ) -> Result:
        """What the SDK's `method` returns. Raises DockerException, or Unavailable where Docker does
        not answer at all. Cancelled, the call itself goes on: callers that change something wait
        for it by `unbroken`."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._threads, lambda: method(self._api, *args, **kwargs)
            )
        except DockerException:
            # Some are errors of the connection's library, too.
            raise
        except (requests.RequestException, OSError) as error:
            raise _silent(self.socket, error) from error

    async def host(self) -> DockerHost:
        """What the broker lets engines have. Raises Unavailable."""
        try:
            async with (
                asyncio.timeout(CALL_S),
                self._open().get("http://broker/variet/host") as answer,
            ):
                text = await answer.text()
                if answer.status == 200:
                    return DockerHost.model_validate_json(text)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _silent(self.socket, error) from error
        raise _silent(self.socket, text[:300])

    async def ended(self, container: str) -> Ended:
        """Returns when the container has ended, or is gone."""
        while True:
            path = f"/containers/{container}/wait?condition=not-running"
            try:
                async with self._open().post(self._url(path)) as answer:
                    if answer.status == 404:
                        return Ended(None, False, gone=True)
                    if answer.status == 200 and json.loads(await answer.text() or "{}"):
                        return await self._state(container)
            except (aiohttp.ClientError, OSError, ValueError):
                # Docker or the broker was restarted; the engine may well run on.
                pass
            await asyncio.sleep(WATCH_AGAIN_S)

    async def log(self, container: str, follow: bool) -> AsyncGenerator[bytes, None]:
        """Its log, line by line; of one that is gone, nothing."""
        path = f"/containers/{container}/logs?stdout=1&stderr=1&follow={int(follow)}&tail=all"
        async with self._open().get(self._url(path)) as answer:
            if answer.status != 200:
                return
            part = b""
            async for chunk in _frames(answer.content):
                *lines, part = (part + chunk).split(b"\n")
                for line in lines:
                    yield line + b"\n"
            if part:
                yield part

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._api.close()

    async def _state(self, container: str) -> Ended:
        try:
            about: Mapping[str, Any] = await self.call(APIClient.inspect_container, container)
        except NotFound:
            return Ended(None, False, gone=True)
        except (DockerException, Unavailable):
            return Ended(None, False)
        state = about["State"]
        return Ended(state.get("ExitCode"), bool(state.get("OOMKilled")))

    def _url(self, path: str) -> str:
        return f"http://docker/v{API_VERSION}{path}"

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(self.socket), limit=0),
                timeout=aiohttp.ClientTimeout(),
                trust_env=False,
            )
        return self._session


async def _frames(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The texts of Docker's log: each after 8 bytes, of which the last 4 are its length."""
    try:
        while True:
            head = await stream.readexactly(FRAME)
            yield await stream.readexactly(int.from_bytes(head[4:], "big"))
    except (asyncio.IncompleteReadError, aiohttp.ClientError):
        return


def _silent(socket: Path, error: object) -> Unavailable:
    return Unavailable(
        "docker_unreachable",
        f"BROKER_SOCKET={socket} does not answer: {error}.",
        "Look at the broker: docker compose logs broker.",
    )
