"""A broker before a Docker engine that is none, both on sockets of their own."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from services.broker.docker_engine import DockerEngine
from services.broker.server import Listening
from tests.services.broker.bodies import HOST, NAME
from tests.services.broker.fake_docker import FakeDocker


@dataclass
class Door:
    """The broker's socket; `http` follows no redirect, and `raw` says what no library would."""

    socket: Path
    http: aiohttp.ClientSession

    async def ask(self, method: str, target: str, **more: Any) -> tuple[int, Any]:
        async with self.http.request(method, f"http://broker{target}", **more) as answer:
            return answer.status, await answer.json(
                content_type=None
            ) if answer.status != 204 else None

    async def create(
        self, asked: Any, name: str = NAME, version: str = "/v1.45"
    ) -> tuple[int, Any]:
        return await self.ask(
            "POST", f"{version}/containers/create", params={"name": name}, json=asked
        )

    async def raw(self, data: bytes) -> bytes:
        """All that is answered to these bytes until the broker closes."""
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        try:
            writer.write(data)
            async with asyncio.timeout(30):
                return await reader.read()
        finally:
            writer.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Sockets have short names."""
    with tempfile.TemporaryDirectory(prefix="broker") as path:
        yield Path(path)


@pytest.fixture
async def docker(folder: Path) -> AsyncIterator[FakeDocker]:
    made = FakeDocker(folder / "docker.sock")
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def door(folder: Path, docker: FakeDocker) -> AsyncIterator[Door]:
    socket = folder / "broker.sock"
    listening = Listening(HOST, DockerEngine(docker.socket), socket)
    await listening.open()
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as http:
        yield Door(socket, http)
    await listening.close()
