"""The Qdrant server: one client, and what its failures mean."""

import warnings
from collections.abc import Awaitable
from typing import TypeVar

import httpx
from pydantic import ValidationError
from qdrant_client import AsyncQdrantClient
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import (
    ApiException,
    ResponseHandlingException,
    UnexpectedResponse,
)

from contracts.errors import SettingsError, StoreError, Unavailable, VarietError

# The first with BM25 of its own and the code tokenizer.
OLDEST = (1, 20)
GONE = "collection_gone"
READ_TIMEOUT_S = 8
WRITE_TIMEOUT_S = 60

T = TypeVar("T")


class Server:
    """The one at `url`, asked through `client`. Its answers go through `call`."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url
        with warnings.catch_warnings():
            # In a Compose network http is what there is; elsewhere the URL says https.
            warnings.filterwarnings("ignore", message="Api key is used with an insecure connection")
            self.client = AsyncQdrantClient(
                url=url,
                # Else the client adds :6333 to a URL that means its scheme's port.
                port=None,
                api_key=key,
                timeout=READ_TIMEOUT_S,
                check_compatibility=False,
                limits=httpx.Limits(max_connections=16, max_keepalive_connections=4),
            )

    async def call(self, request: Awaitable[T]) -> T:
        """The server's answer. Raises VarietError, with the code GONE when it answers 404."""
        try:
            return await request
        except (ApiException, QdrantException) as error:
            raise self._failure(error) from error

    async def require_release(self) -> None:
        """Raises SettingsError for a server that is too old for what is asked of it."""
        version = (await self.call(self.client.info())).version
        if _release(version) < OLDEST:
            raise SettingsError(
                "vector_store_too_old",
                f"QDRANT_URL={self.url} is Qdrant {version}; BM25 search needs"
                f" {'.'.join(map(str, OLDEST))}.",
                "Upgrade the server, one minor version at a time.",
            )

    async def close(self) -> None:
        await self.client.close()

    def silent(self, seconds: float | None = None) -> Unavailable:
        within = f" within {seconds:g} s" if seconds else " in time"
        return _down(f"QDRANT_URL={self.url} did not answer{within}.")

    def _failure(self, error: ApiException | QdrantException) -> VarietError:
        url = self.url
        if isinstance(error, ResponseHandlingException):
            if isinstance(error.source, httpx.TimeoutException):
                return self.silent()
            if isinstance(error.source, ValidationError):
                return StoreError(
                    "no_vector_store",
                    f"QDRANT_URL={url} answers, and not as Qdrant does.",
                    "Point QDRANT_URL at a Qdrant server, without a path: http://HOST:6333.",
                )
            why = f"{type(error.source).__name__} {error.source}".splitlines()[0].strip()
            return _down(f"QDRANT_URL={url} does not answer: {why}.")
        if not isinstance(error, UnexpectedResponse):
            return _down(f"QDRANT_URL={url} refuses for now: {error}.")
        if error.status_code in (401, 403):
            return SettingsError(
                "vector_store_key",
                f"QDRANT_URL={url} answers {error.status_code}: it does not take QDRANT_API_KEY.",
                "Set QDRANT_API_KEY to the server's QDRANT__SERVICE__API_KEY.",
            )
        said = error.content.decode(errors="replace")[:200]
        if error.status_code == 404:
            return StoreError(
                GONE,
                f"A collection is no longer on QDRANT_URL={url}: {said}",
                "Restore it, or run `variet ingest PATH` for each of its folders again.",
            )
        message = f"QDRANT_URL={url} answered {error.status_code}: {said}"
        if (error.status_code or 500) >= 500 or error.status_code == 429:
            return _down(message)
        return StoreError("vector_store_refused", message, "See the server's log.")


def _release(version: str) -> tuple[int, ...]:
    numbers = version.split("-")[0].split(".")[:2]
    return tuple(int(number) for number in numbers if number.isdigit())


def _down(message: str) -> Unavailable:
    return Unavailable(
        "vector_store_unavailable",
        message,
        "Start the Qdrant server, or unset QDRANT_URL to keep the index in STATE_DIR/index.",
    )
