"""The ingest lane: jobs from the queue, one at a time, into the index.

What a source holds is identified by its content: unchanged sources are skipped, changed ones
replaced, and those that a folder no longer has are removed. So a job can be repeated at will.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contracts.errors import (
    EngineError,
    NotFound,
    SettingsError,
    StoreError,
    Unavailable,
    VarietError,
)
from contracts.knowledge import Chunk, IngestJob, IngestRequest, JobStatus
from orchestrator.knowledge import parsing
from orchestrator.knowledge.chunking import Passage, chunk
from orchestrator.knowledge.index import PROCESS_DOWN, Index
from orchestrator.knowledge.parsing import Document
from orchestrator.knowledge.queue import LEASE, Job, Queue
from orchestrator.knowledge.roots import Roots

# Part of each digest: a new way of cutting makes every source a changed one.
CUTTING = "1"

_BATCH = 32
_ERRORS_KEPT = 50
_IDLE_PAUSE = 5.0
_NOT_READY_PAUSE = 0.25
_RETRIED = (Unavailable, EngineError, StoreError)
_OUTAGES = (Unavailable, EngineError, SettingsError)
_STATUS: dict[str, JobStatus] = {
    "ready": "queued",
    "leased": "running",
    "done": "done",
    "dead": "failed",
}

log = logging.getLogger("variet.ingest")


@dataclass
class _Progress:
    files: int = 0
    chunks: int = 0
    skipped: int = 0
    removed: int = 0
    errors: list[dict[str, str]] = field(default_factory=list)

    def note(self, error: VarietError) -> None:
        if len(self.errors) < _ERRORS_KEPT:
            self.errors.append(error.body())


class Ingest:
    """Takes requests, works them off in the background. Jobs survive a restart."""

    def __init__(self, index: Index, database: Path, roots: list[Path]) -> None:
        """`database`: the queue's file. Only files below `roots` are ever read."""
        self._index = index
        self._queue = Queue(database)
        self._roots = Roots(roots)
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Run the worker in the background, until `close`."""
        self._worker = asyncio.create_task(self.run())

    async def submit(self, request: IngestRequest) -> str:
        """Queue a job; its id. The same request again, while it waits, is the same job.

        Raises Forbidden, NotFound or BadRequest for a path that cannot be indexed.
        """
        body = {"collection": request.collection}
        if request.rebuild:
            body |= {"kind": "rebuild", "source": request.collection}
        elif request.text is not None:
            name = request.source or hashlib.sha256(request.text.encode()).hexdigest()[:12]
            # The prefix keeps texts and files apart: neither can replace the other.
            body |= {"kind": "text", "source": f"text:{name}", "text": request.text}
        else:
            path = await asyncio.to_thread(self._roots.locate, request.path or "")
            body |= {"kind": "path", "source": self._roots.source(path), "path": str(path)}
        key = hashlib.sha256(repr(sorted(body.items())).encode()).hexdigest()
        job_id = await asyncio.to_thread(self._queue.put, key, body)
        self._wake.set()
        return job_id

    async def job(self, job_id: str) -> IngestJob:
        """The state of a job. Raises NotFound."""
        job = await asyncio.to_thread(self._queue.get, job_id)
        if job is None:
            raise NotFound("no_job", f"There is no ingest job {job_id}.", "Check the job's id.")
        return IngestJob.model_validate(
            {
                **job.progress,
                "job_id": job.id,
                "status": _STATUS[job.state],
                "collection": job.body["collection"],
                "source": job.body["source"],
                "attempts": job.attempts,
                "created_at": _iso(job.created),
                "updated_at": _iso(job.updated),
            }
        )

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            try:
                pause = await self._next()
            except Exception:  # boundary: the lane outlives a full disk or a damaged row
                log.exception("the ingest lane stumbled; it goes on in %.0f s", _IDLE_PAUSE)
                pause = _IDLE_PAUSE
            if not pause:
                continue
            with contextlib.suppress(TimeoutError):
                # Not wait_for: before Python 3.12 it may swallow a cancellation.
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            self._wake.clear()

    async def drain(self) -> None:
        """Wait until nothing is queued or running."""
        while await asyncio.to_thread(self._queue.pending):
            self._ended.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._ended.wait()

    async def close(self) -> None:
        """Stop working; a running job goes back to the queue."""
        if self._worker:
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker
        self._queue.close()

    async def _next(self) -> float:
        """Work off one job, if there is one; the seconds to wait before the next."""
        await asyncio.to_thread(self._queue.reap)
        if not await asyncio.to_thread(self._queue.pending):
            return _IDLE_PAUSE
        # A job that cannot be done now must not use up its attempts.
        if not await self._ready():
            return _NOT_READY_PAUSE
        job = await asyncio.to_thread(self._queue.claim)
        if job is None:
            return _IDLE_PAUSE
        await self._attempt(job)
        self._ended.set()
        return 0

    async def _ready(self) -> bool:
        try:
            return (await self._index.stats()).ready
        except VarietError:
            return False

    async def _attempt(self, job: Job) -> None:
        """Do a job under its lease: give it back when cancelled, drop it when the lease is lost."""
        progress = _Progress()
        work = asyncio.create_task(self._perform(job.body, progress))
        try:
            while not (await asyncio.wait({work}, timeout=LEASE / 3))[0]:
                if not await asyncio.to_thread(self._queue.heartbeat, job.id, asdict(progress)):
                    log.warning("the lease of job %s was lost", job.id)
                    return
        except asyncio.CancelledError:
            self._queue.release(job.id, asdict(progress))
            raise
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait({work})
        error = _failure(work)
        if error is None:
            await asyncio.to_thread(self._queue.ack, job.id, asdict(progress))
            return
        progress.note(error)
        if await self._down(error):
            await asyncio.to_thread(self._queue.release, job.id, asdict(progress))
            return
        retry = isinstance(error, _RETRIED)
        await asyncio.to_thread(self._queue.fail, job.id, asdict(progress), retry)

    async def _down(self, error: VarietError) -> bool:
        """Whether an attempt failed for no fault of the job: what the index process needs is
        down. A job during which the process itself ended may be the reason for that."""
        if error.code == PROCESS_DOWN or not isinstance(error, _OUTAGES):
            return False
        return not await self._ready()

    async def _perform(self, body: dict[str, Any], progress: _Progress) -> None:
        collection = body["collection"]
        if body["kind"] == "rebuild":
            progress.chunks = await self._index.rebuild(collection)
            return
        if body["kind"] == "text":
            document = Document(body["text"], "prose")
            held = await self._index.sources(collection, body["source"])
            await self._put(collection, body["source"], document, held, progress)
            return
        # Once more: since it was queued, a link may have taken the place of a folder on the way.
        path = await asyncio.to_thread(self._roots.locate, body["path"])
        if await asyncio.to_thread(path.is_dir):
            await self._index_folder(collection, path, progress)
            return
        held = await self._index.sources(collection, body["source"])
        document = await asyncio.to_thread(parsing.read, path)
        await self._put(collection, body["source"], document, held, progress)

    async def _index_folder(self, collection: str, folder: Path, progress: _Progress) -> None:
        held = await self._index.sources(collection, self._roots.source(folder) + "/")
        found = set()
        for path in await asyncio.to_thread(_files, folder):
            source = self._roots.source(path)
            found.add(source)
            try:
                document = await asyncio.to_thread(parsing.read, path)
            except VarietError as error:
                progress.note(error)
                continue
            await self._put(collection, source, document, held, progress)
        for source in sorted(held.keys() - found):
            await self._index.delete(collection, source)
            progress.removed += 1

    async def _put(
        self,
        collection: str,
        source: str,
        document: Document,
        held: dict[str, list[str]],
        progress: _Progress,
    ) -> None:
        """Bring one source up to date. Its first part is stored last, and the former version
        removed after that: a crash in between leaves a state that the next attempt mends."""
        digest = _digest(document)
        if held.get(source) == [digest]:
            progress.skipped += 1
            return
        passages = await asyncio.to_thread(chunk, document)
        for batch in _batches(_chunks(source, digest, passages)):
            progress.chunks += await self._index.upsert(collection, batch)
        await self._index.delete(collection, source, keep=digest)
        progress.files += 1


def _files(folder: Path) -> list[Path]:
    return list(parsing.walk(folder))


def _digest(document: Document) -> str:
    return hashlib.sha256(f"{CUTTING}\0{document.kind}\0{document.text}".encode()).hexdigest()


def _chunks(source: str, digest: str, passages: list[Passage]) -> list[Chunk]:
    return [
        Chunk(
            source=source,
            digest=digest,
            part=part,
            start_line=passage.start_line,
            end_line=passage.end_line,
            text=passage.text,
        )
        for part, passage in enumerate(passages)
    ]


def _batches(chunks: list[Chunk]) -> Iterable[list[Chunk]]:
    backwards = chunks[::-1]
    return (backwards[start : start + _BATCH] for start in range(0, len(backwards), _BATCH))


def _failure(work: asyncio.Task[None]) -> VarietError | None:
    error = work.exception()
    if error is None or isinstance(error, VarietError):
        return error
    log.error("an ingest job failed", exc_info=error)
    return StoreError(
        "ingest_failed", f"{type(error).__name__}: {error}.", "See the log of the orchestrator."
    )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
