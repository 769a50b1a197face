"""`variet ingest` and `variet search`: documents in, passages out."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console

from cli.address import connect
from cli.client import Client
from cli.show import error_line, line
from cli.text import exact, prose
from contracts.errors import BadRequest, Forbidden, Unavailable
from contracts.knowledge import IngestAccepted, IngestJob, SearchResponse
from contracts.settings import LOOPBACK

POLL_S = 0.1


def ingest(
    path: Path | None, collection: str, rebuild: bool, url: str | None, console: Console
) -> None:
    """Index a file or folder; or embed anew what the collection holds."""
    with connect(url) as client:
        if rebuild:
            _submit(client, {"rebuild": True}, collection, console)
            return
        found = _existing(path)
        if urlsplit(client.url).hostname in LOOPBACK:
            try:
                _submit(client, {"path": str(found.resolve())}, collection, console)
                return
            except Forbidden:
                # Outside the workspace the orchestrator may not read; this command may.
                pass
        for file in _files(found):
            if (text := _text(file, console)) is not None:
                body = {"text": text, "source": file.as_posix()}
                _submit(client, body, collection, console)


def ingest_and_wait(
    client: Client,
    body: dict[str, Any],
    wait: Callable[[float], None] = time.sleep,
    within_s: float | None = None,
) -> IngestJob:
    """Submit a job and return it when it is done. Raises Unavailable when it failed, or is not
    done `within_s`; without that it is waited for as long as embeddings or index are away."""
    accepted = IngestAccepted.model_validate(client.post("/ingest", body))
    until = None if within_s is None else time.monotonic() + within_s
    while True:
        job = IngestJob.model_validate(client.get(f"/ingest/jobs/{accepted.job_id}"))
        if job.status == "failed":
            said = " ".join(error_line(error) for error in job.errors)
            raise Unavailable(
                "ingest_failed", f"Indexing {job.source} failed. {said}".strip(), "variet doctor"
            )
        if job.status == "done":
            return job
        if until and time.monotonic() > until:
            raise Unavailable(
                "ingest_slow",
                f"Indexing {job.source} is not done after {within_s:g} s: it waits for other"
                " documents, for the embeddings server or for the index.",
                "See what waits: variet doctor",
            )
        wait(POLL_S)


def search(query: str, limit: int, collection: str, url: str | None, console: Console) -> None:
    with connect(url) as client:
        answer = client.get("/search", q=query, limit=limit, collection=collection)
    results = SearchResponse.model_validate(answer).results
    if not results:
        line(console, "Nothing found. Index documents with: variet ingest PATH")
    for found in results:
        at = found.citation
        place = f"{exact(found.source)}:{at.start_line}-{at.end_line}"
        line(console, f"[{at.n}] {place}  {found.score:.3f}", "bold")
        line(console, f"{prose(found.text.strip())}\n")


def _submit(client: Client, body: dict[str, Any], collection: str, console: Console) -> None:
    job = ingest_and_wait(client, {**body, "collection": collection})
    line(
        console,
        f"{exact(job.source)}: {job.files} files indexed ({job.chunks} passages),"
        f" {job.skipped} unchanged, {job.removed} removed.",
    )
    for error in job.errors:
        line(console, f"  {error_line(error)}", "yellow")


def _existing(path: Path | None) -> Path:
    if path is None:
        raise BadRequest("no_path", "Nothing to index was named.", "Try: variet ingest docs/")
    if not path.exists():
        raise BadRequest("no_such_path", f"{path} does not exist.", "Name a file or a folder.")
    return path


def _files(path: Path) -> list[Path]:
    """The file itself, or a folder's files without hidden ones."""
    if path.is_file():
        return [path]
    inside = (p for p in path.rglob("*") if p.is_file())
    return sorted(p for p in inside if not _hidden(p.relative_to(path)))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _text(file: Path, console: Console) -> str | None:
    try:
        text = file.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        line(console, f"{exact(str(file))}: left out, it cannot be read as text: {error}", "yellow")
        return None
    return text if text.strip() else None
