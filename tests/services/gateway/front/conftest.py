"""A front that listens, before a gate and an engine that tests decide about."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from contracts.gateway_settings import GatewaySettings
from services.gateway.front.limits import Limits
from services.gateway.front.site import Site
from services.gateway.metrics import Metrics
from tests.services.gateway.front.byte_engine import ByteEngine
from tests.services.gateway.front.memory_gate import MemoryGate

USER = "user-key-of-these-tests"
ADMIN = "admin-key-of-these-tests"
DEADLINE_S = 30.0


def settings(**more: Any) -> GatewaySettings:
    given: dict[str, Any] = {
        "gateway_host": "127.0.0.1",
        "gateway_port": 0,
        "gateway_api_key": USER,
        "gateway_admin_key": ADMIN,
        **more,
    }
    return GatewaySettings(_env_file=None, **given)


async def until(true: Callable[[], object]) -> None:
    """Returns when `true()` holds; fails after a deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            if true():
                return
            await asyncio.sleep(0.005)


@dataclass
class Front:
    """A client of the front (`http` sends the user's key), and what is behind it."""

    site: Site
    gate: MemoryGate
    engine: ByteEngine
    metrics: Metrics
    http: aiohttp.ClientSession

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.site.port}{path}"

    def chat(self, stream: bool = False, model: str = "fast", **more: Any) -> Any:
        """A chat request, as the context manager that aiohttp makes of it."""
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], **more}
        headers = body.pop("headers", {})
        if stream:
            body["stream"] = True
        return self.http.post(self.url("/v1/chat/completions"), json=body, headers=headers)

    def admin(self, method: str, path: str, **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {ADMIN}", **more.pop("headers", {})}
        return self.http.request(method, self.url(path), headers=headers, **more)

    def figure(self, name: str, **labels: str) -> float:
        """A value of the metrics; 0 where there is none."""
        return self.metrics.registry.get_sample_value(f"variet_gateway_{name}", labels) or 0.0


@asynccontextmanager
async def a_front(
    limits: Limits | None = None, gate: MemoryGate | None = None, **given: Any
) -> AsyncIterator[Front]:
    async with ByteEngine() as engine:
        gate = gate or MemoryGate()
        gate.url = engine.url
        metrics = Metrics()
        page = settings(**given)
        site = Site(gate, page, metrics, limits)
        await site.start()
        key = page.gateway_api_key
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        try:
            async with aiohttp.ClientSession(headers=headers) as http:
                yield Front(site, gate, engine, metrics, http)
        finally:
            await site.stop(0)


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    async with a_front(Limits(retry_pause=0.01)) as made:
        yield made
