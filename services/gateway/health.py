"""Finds engines that hang: in idle time each is asked for one token.

A canary goes past the queue and loads nothing. It gives way as soon as a request comes or its
engine goes, and then says nothing: so it keeps no engine from its unload, and an engine at work is
never judged. One that gave way is tried again at the next idle moment.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

import aiohttp

from contracts.manifest import ModelKind
from services.gateway.engines.engine import Running
from services.gateway.shell import Gate
from services.gateway.status import Standing

LOG = logging.getLogger(__name__)
LOOKS_PER_PERIOD = 4
ASKED: dict[ModelKind, tuple[str, dict[str, Any]]] = {
    "chat": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "."}], "max_tokens": 1},
    ),
    "embed": ("/v1/embeddings", {"input": "."}),
    "rerank": ("/rerank", {"query": ".", "texts": ["."], "documents": ["."]}),
}
ASKED["classify"] = ASKED["chat"]


@dataclass(slots=True)
class _Probed:
    """`at` is when it was last found well, or asked; `doubted`: the last canary gave way, or was
    not answered by `silent`."""

    at: float
    doubted: bool = False
    silent: Running | None = None
    canary: asyncio.Task[None] | None = None


class Health:
    """Watches `gate`'s engines that are idle for `every_s`; one that has not answered within
    `timeout_s`, or broke off twice, is reported as hung."""

    def __init__(self, gate: Gate, every_s: float, timeout_s: float) -> None:
        self._gate = gate
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._probed: dict[str, _Probed] = {}
        gate.on_wanted = self.give_way

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=None)
        # An engine may close a kept connection at the very moment of the next canary.
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            try:
                while True:
                    await asyncio.sleep(self._every_s / LOOKS_PER_PERIOD)
                    for standing in self._gate.standings():
                        self._look(session, standing)
            finally:
                await self._end()

    def give_way(self, engine: str) -> None:
        """A request goes to it, or it goes itself."""
        probed = self._probed.get(engine)
        if probed is not None and probed.canary is not None:
            probed.canary.cancel()
            probed.canary = None
            probed.doubted = True

    def _look(self, session: aiohttp.ClientSession, standing: Standing) -> None:
        running, idle_since = standing.owner.running, standing.view.idle_since
        probed = self._probed.setdefault(standing.spec.name, _Probed(standing.now))
        if running is None or idle_since is None or probed.canary is not None:
            return
        due = max(idle_since, probed.at) + self._every_s
        if probed.doubted or standing.now >= due:
            probed.at, probed.doubted = standing.now, False
            canary = self._ask(session, standing, running)
            probed.canary = asyncio.create_task(canary, name=f"canary of {standing.spec.name}")

    async def _ask(
        self, session: aiohttp.ClientSession, standing: Standing, running: Running
    ) -> None:
        name = standing.spec.name
        try:
            async with asyncio.timeout(self._timeout_s):
                status = await _one_token(session, standing, running)
        except TimeoutError:
            LOG.error("engine hangs", extra={"engine": name, "seconds": self._timeout_s})
            self._probed[name].canary = None
            self._gate.hung(name)
        except aiohttp.ClientError as error:
            self._unanswered(name, standing, running, error)
        else:
            self._probed[name].silent = None
            if status >= 500:
                told = {"engine": name, "status": status}
                LOG.warning("canary was answered with an error", extra=told)
        self._probed[name].canary = None

    def _unanswered(
        self, name: str, standing: Standing, running: Running, error: aiohttp.ClientError
    ) -> None:
        """It went, as its owner will have seen when it is looked at again; else it is there and
        answers nobody."""
        probed = self._probed[name]
        known, probed.silent, probed.doubted = probed.silent, running, True
        told = {"engine": name, "error": str(error)}
        if known is not running or standing.owner.running is not running:
            LOG.info("canary was not answered", extra=told)
            return
        LOG.error("engine answers nobody", extra=told)
        probed.canary = None
        self._gate.hung(name)

    async def _end(self) -> None:
        canaries = [p.canary for p in self._probed.values() if p.canary is not None]
        for canary in canaries:
            canary.cancel()
        await asyncio.gather(*canaries, return_exceptions=True)


async def _one_token(session: aiohttp.ClientSession, standing: Standing, running: Running) -> int:
    """The status of the answer, once it has come whole."""
    path, body = ASKED.get(standing.spec.entry.kind, ("/health", {}))
    headers = {"Authorization": f"Bearer {running.key}"}
    url = running.base_url + path
    if not body:
        async with session.get(url, headers=headers) as answer:
            await answer.read()
            return answer.status
    asked = {"model": standing.spec.name, **body}
    async with session.post(url, json=asked, headers=headers) as answer:
        await answer.read()
        return answer.status
