"""Fetches one file over HTTP: resumable, checked against its SHA-256 as it arrives."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from contracts.errors import Forbidden, NotFound, StoreError, Unavailable, Unprocessable

if TYPE_CHECKING:
    # Whoever only looks for a file, as the brain's gateway does, has no need of it.
    import httpx2

CHUNK_BYTES = 2**20
TIMEOUT_S = 30.0
# Tries in a row that bring nothing; a try that brought bytes starts the count anew.
TRIES = 5
RETRY_S = 1.0
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})

Stage = Literal["checking", "fetching"]


@dataclass(frozen=True)
class Progress:
    """How far a pull is, in bytes of `total`. `checking` reads what is already here."""

    stage: Stage
    done: int
    total: int


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Wanted:
    """The file that a transfer has to end with."""

    url: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Remote:
    """Where files come from. The token goes to `endpoint` alone, not to where it redirects."""

    endpoint: str
    token: str | None = None
    retry_s: float = RETRY_S

    def client(self) -> "httpx2.Client":
        import httpx2

        return httpx2.Client(timeout=TIMEOUT_S, follow_redirects=True)

    def headers(self, url: str) -> dict[str, str]:
        # Files are compressed already, and a resumed body must not be of another encoding.
        headers = {"Accept-Encoding": "identity"}
        if self.token and url.startswith(f"{self.endpoint}/"):
            headers["Authorization"] = f"Bearer {self.token}"
        return headers

    def recorded(self, url: str) -> Wanted:
        """What the hub itself records of the file at `url`. Raises Unprocessable without it."""
        with _network(url), self.client() as client:
            answer = client.head(url, headers=self.headers(url), follow_redirects=False)
        if answer.status_code >= 400:
            raise _refused(url, answer.status_code)
        digest = answer.headers.get("x-linked-etag", "").strip('"')
        size = answer.headers.get("x-linked-size", "")
        if len(digest) != 64 or not size.isdigit():
            raise Unprocessable(
                "no_checksum",
                f"Neither the manifest nor the server knows the SHA-256 of {url}.",
                "Add sha256 and bytes to the manifest entry.",
            )
        return Wanted(url, digest, int(size))


def fetch(wanted: Wanted, part: Path, remote: Remote, on_progress: OnProgress) -> None:
    """Bring `part` to be the wanted file, from what it already holds. Raises with `part` kept
    when going on later can help, and removed when its content is wrong."""
    digest, done = _resume(wanted, part, on_progress)
    failures = 0
    while done < wanted.bytes:
        before = done
        interruption = _interrupted(wanted.url, "the server ends the transfer early")
        try:
            for reached in _receive(wanted, part, before, digest, remote):
                done = reached
                on_progress(Progress("fetching", done, wanted.bytes))
        except _StartOver:
            digest, done = hashlib.sha256(), 0
            part.unlink(missing_ok=True)
        except Unavailable as error:
            interruption = error
        if done < wanted.bytes:
            failures = 0 if done > before else failures + 1
            if failures == TRIES:
                raise interruption
            time.sleep(remote.retry_s * 2**failures)
    if digest.hexdigest() != wanted.sha256:
        part.unlink()
        raise Unprocessable(
            "wrong_checksum",
            f"{wanted.url} has SHA-256 {digest.hexdigest()}, expected {wanted.sha256}.",
            "It was deleted. Pull again; if it happens again, the file was changed at its source.",
        )


class _StartOver(Exception):
    """The server cannot continue from where the part ends."""


def _resume(wanted: Wanted, part: Path, on_progress: OnProgress) -> tuple["hashlib._Hash", int]:
    digest, done = hashlib.sha256(), 0
    if not part.exists():
        return digest, done
    if part.stat().st_size > wanted.bytes:
        part.unlink()
        return digest, done
    with part.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            digest.update(block)
            done += len(block)
            on_progress(Progress("checking", done, wanted.bytes))
    return digest, done


def _receive(
    wanted: Wanted, part: Path, start: int, digest: "hashlib._Hash", remote: Remote
) -> Iterator[int]:
    """Append to `part` from `start`; yields the bytes that it holds then."""
    headers = remote.headers(wanted.url)
    if start:
        headers["Range"] = f"bytes={start}-"
    with (
        _network(wanted.url),
        remote.client() as client,
        client.stream("GET", wanted.url, headers=headers) as answer,
    ):
        _check(answer, start, wanted)
        with part.open("ab") as file:
            done = start
            # Blocks as they come: gathered ones would be lost when the connection breaks.
            for block in answer.iter_raw():
                done += len(block)
                _write(file, block, part)
                digest.update(block)
                yield done
                if done >= wanted.bytes:
                    return  # a body without end must not fill the disk


def _check(answer: "httpx2.Response", start: int, wanted: Wanted) -> None:
    status = answer.status_code
    if status == 416 or (start and status == 200):
        raise _StartOver
    if status in TRANSIENT:
        raise _interrupted(wanted.url, f"the server answers {status}")
    if status not in (200, 206):
        raise _refused(wanted.url, status)
    told = answer.headers.get("content-range", "")
    if status == 206 and not told.startswith(f"bytes {start}-"):
        raise _StartOver
    size = told.rpartition("/")[2] if status == 206 else answer.headers.get("content-length", "")
    if size.isdigit() and int(size) != wanted.bytes:
        raise Unprocessable(
            "wrong_size",
            f"{wanted.url} has {size} bytes, expected {wanted.bytes}.",
            "The file was changed at its source; correct the manifest entry.",
        )


def _write(file: IO[bytes], block: bytes, part: Path) -> None:
    try:
        file.write(block)
        file.flush()
    except OSError as error:
        raise StoreError(
            "store_write",
            f"{part} cannot be written: {error.strerror}.",
            "Free some space or set MODEL_STORE to another disk, then pull again: it resumes.",
        ) from error


@contextmanager
def _network(url: str) -> Iterator[None]:
    import httpx2

    try:
        yield
    except httpx2.RequestError as error:
        raise _interrupted(url, str(error) or type(error).__name__) from error


def _interrupted(url: str, reason: str) -> Unavailable:
    return Unavailable(
        "pull_interrupted",
        f"{url} cannot be fetched: {reason}.",
        "Check the network or HF_ENDPOINT, then pull again: it resumes.",
    )


def _refused(url: str, status: int) -> Forbidden | NotFound | Unavailable:
    if status in (401, 403):
        return Forbidden(
            "pull_forbidden",
            f"{url} answers {status}: the model is gated, or HF_TOKEN is wrong.",
            "Accept the licence on the model's page and set HF_TOKEN.",
        )
    if status in (404, 410):
        return NotFound(
            "pull_missing",
            f"{url} answers {status}: there is no such file.",
            "The file was moved or removed; correct the manifest entry, or choose another model.",
        )
    return _interrupted(url, f"the server answers {status}")
