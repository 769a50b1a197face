"""The process that owns the index: `python -m orchestrator.knowledge.index_process --help`.

It serves the wire of `contracts.knowledge` over a Unix socket in a folder that only its user
may enter. It accepts before the model is loaded; `stats` says when it is ready.
"""

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pydantic import ValidationError

from contracts.errors import BadRequest, StoreError, VarietError
from contracts.knowledge import IndexAnswer, IndexRequest
from orchestrator.knowledge.supervision import require_qdrant_client

if TYPE_CHECKING:
    from orchestrator.knowledge.embedding import Embedder
    from orchestrator.knowledge.index_service import IndexService
    from orchestrator.knowledge.vector_store import VectorStore

LINE_LIMIT = 64 * 1024 * 1024
_REQUEST_TIMEOUT = 30.0
_LOCK_PATIENCE = 5.0

log = logging.getLogger("variet.index")


def main() -> int:
    arguments = _parse()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.INFO)
    for client in ("httpx", "httpx2"):
        logging.getLogger(client).setLevel(logging.WARNING)
    # One thread per text is what the embedder runs; a BLAS that splits products on top of it
    # only spins. Read when numpy is imported, hence the imports below.
    for variable in ("OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    from orchestrator.knowledge.index_service import IndexService

    try:
        with _locked(arguments.path):
            service = IndexService(_store(arguments), _embedder(arguments))
            arguments.socket.unlink(missing_ok=True)
            asyncio.run(_serve(service, arguments.socket, arguments.with_parent))
            arguments.socket.unlink(missing_ok=True)
    except VarietError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Own the index and serve it on a Unix socket.")
    parser.add_argument("--path", type=Path, required=True, help="folder of the collections")
    parser.add_argument("--qdrant-url", help="Qdrant server that has them instead")
    parser.add_argument("--socket", type=Path, required=True, help="Unix socket to listen on")
    parser.add_argument("--embed-url", help="OpenAI-compatible embeddings server, ending in /v1")
    parser.add_argument("--embed-model", default="all-MiniLM-L6-v2", help="model to ask it for")
    parser.add_argument("--threads", type=int, default=0, help="for bulk embedding; 0: by cores")
    parser.add_argument("--with-parent", action="store_true", help="end when stdin closes")
    return parser.parse_args()


def _store(arguments: argparse.Namespace) -> "VectorStore":
    if not arguments.qdrant_url:
        from orchestrator.knowledge.edge import EdgeStore

        return EdgeStore(arguments.path)
    require_qdrant_client()
    from orchestrator.knowledge.qdrant.store import QdrantStore

    return QdrantStore(arguments.qdrant_url, os.environ.get("QDRANT_API_KEY"))


def _embedder(arguments: argparse.Namespace) -> "Embedder":
    from orchestrator.knowledge.embedding import LocalEmbedder, RemoteEmbedder

    if not arguments.embed_url:
        return LocalEmbedder(arguments.threads)
    # From the environment: arguments are readable by every user of the machine.
    key = os.environ.get("EMBED_KEY")
    return RemoteEmbedder(arguments.embed_url, arguments.embed_model, key)


def _locked(folder: Path) -> IO[str]:
    """Hold the folder for this process. A former one may need a moment to end after its parent."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "lock").open("w")
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            lock.close()
            raise StoreError(
                "index_in_use",
                f"Another process has the index {folder} open.",
                "Stop the other Variet, or set STATE_DIR to another folder.",
            ) from None
        return lock


async def _serve(service: "IndexService", socket: Path, with_parent: bool) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)

    def orphaned() -> None:
        # The folder of the socket was the parent's, which may have been killed.
        socket.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            socket.parent.rmdir()
        stop.set()

    if with_parent:
        # A terminal's Ctrl-C is the parent's to handle; it closes stdin when it is done.
        loop.add_signal_handler(signal.SIGINT, lambda: None)
        await loop.connect_read_pipe(lambda: _Parent(orphaned), sys.stdin)
    else:
        loop.add_signal_handler(signal.SIGINT, stop.set)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _exchange(service, reader, writer)

    previous = os.umask(0o077)
    server = await asyncio.start_unix_server(connected, socket, limit=LINE_LIMIT)
    os.umask(previous)
    warming = asyncio.create_task(_tend(service))
    warming.add_done_callback(lambda task: _end_if_broken(task, stop))
    await stop.wait()
    server.close()
    warming.cancel()
    await service.close()
    if not warming.cancelled() and warming.done() and (error := warming.exception()):
        raise StoreError(
            "index_damaged",
            f"The index cannot be opened: {error}.",
            "Move the folder away and index the documents again.",
        ) from error


async def _tend(service: "IndexService") -> None:
    await service.warm()
    await service.watch()


def _end_if_broken(task: asyncio.Task[None], stop: asyncio.Event) -> None:
    if not task.cancelled() and task.exception():
        stop.set()


async def _exchange(
    service: "IndexService", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Answer one request. A request cut short is not one: its sender is gone."""
    try:
        async with asyncio.timeout(_REQUEST_TIMEOUT):
            line = await reader.readline()
        if line.endswith(b"\n"):
            answer = await _answer(service, line)
            writer.write(answer.model_dump_json(exclude_none=True).encode() + b"\n")
            await writer.drain()
    except (TimeoutError, ConnectionError, ValueError) as error:
        log.warning("a request was dropped: %s", error or type(error).__name__)
    finally:
        writer.close()


async def _answer(service: "IndexService", line: bytes) -> IndexAnswer:
    try:
        request = IndexRequest.model_validate_json(line)
        return IndexAnswer(result=await service.answer(request.root))
    except ValidationError as error:
        return _refusal(BadRequest("bad_index_request", str(error), "Correct the request."))
    except VarietError as error:
        return _refusal(error)
    except Exception as error:  # boundary: the store raises bare Exception, for a full disk too
        log.exception("the store failed")
        message = f"The index failed: {error}."
        return _refusal(StoreError("index_failed", message, "See the log; check the disk's space."))


def _refusal(error: VarietError) -> IndexAnswer:
    return IndexAnswer.model_validate({"error": error.body(), "kind": type(error).__name__})


class _Parent(asyncio.Protocol):
    """Calls `gone` when the parent closes our standard input, which its death does too."""

    def __init__(self, gone: Callable[[], None]) -> None:
        self._gone = gone

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone()


if __name__ == "__main__":
    sys.exit(main())
