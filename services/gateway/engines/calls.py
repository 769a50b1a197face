"""Short calls of the gateway to its engines: whether they answer, and what they are told to do."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import aiohttp

ANSWER_BYTES = 2**20
CALL_S = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` 0: there was none, and `text` says why."""

    status: int
    text: str

    @property
    def json(self) -> dict[str, Any]:
        """The object that it holds; empty when it holds none."""
        try:
            value = json.loads(self.text)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


class EngineCalls:
    """One session for all engines, made at the first call. Engines are never reached by a proxy."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def get(self, url: str, key: str = "", timeout_s: float = CALL_S) -> Answer:
        return await self._call("GET", url, key, None, timeout_s)

    async def post(
        self, url: str, key: str = "", body: Any = None, timeout_s: float = CALL_S
    ) -> Answer:
        return await self._call("POST", url, key, body, timeout_s)

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _call(self, method: str, url: str, key: str, body: Any, timeout_s: float) -> Answer:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            headers["Content-Type"] = "application/json"
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._open().request(method, url, headers=headers, data=data) as answer,
            ):
                text = (await answer.content.read(ANSWER_BYTES)).decode("utf-8", "replace")
                return Answer(answer.status, text)
        except TimeoutError:
            return Answer(0, f"no answer within {timeout_s:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return Answer(0, str(error) or type(error).__name__)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            # A kept connection to an engine that was replaced would fail the next call to its port.
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=aiohttp.ClientTimeout(), trust_env=False
            )
        return self._session
