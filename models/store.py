"""The folder of pulled models.

    python -m models.store seal nano    # after its file changed: write its hash to the manifest

Layout: `ID/FILE` is a verified model, `ID/FILE.part` an unfinished one, `pulled.json` records
what was verified and against what.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from contracts.errors import Conflict, NotFound, StoreError, Unprocessable, VarietError
from contracts.manifest import FILE, ManifestEntry
from contracts.settings import REPOSITORY, Settings
from models.manifest import MANIFEST, load_manifest
from models.transfer import OnProgress, Progress, Remote, Wanted, fetch

__all__ = ["Progress", "Pulled", "Store", "seal"]

HUB = "https://huggingface.co"
SPARE_BYTES = 256 * 2**20
MIB = 2**20


@dataclass(frozen=True)
class Pulled:
    """A verified model file. `trusted` says whose SHA-256 it was checked against: the
    manifest's, or, where that has none, the one the hub itself gave."""

    path: Path
    sha256: str
    bytes: int
    trusted: Literal["manifest", "hub"]


class Store:
    """Model files below `root`."""

    def __init__(
        self,
        root: Path,
        *,
        endpoint: str = HUB,
        token: str | None = None,
        retry_s: float = 1.0,
        repository: Path = REPOSITORY,
    ) -> None:
        self.root = root
        self._remote = Remote(endpoint.rstrip("/"), token, retry_s)
        self._repository = repository

    @classmethod
    def of(cls, settings: Settings) -> Self:
        token = settings.hf_token
        return cls(
            settings.model_store,
            endpoint=settings.hf_endpoint,
            token=token.get_secret_value() if token else None,
        )

    def path(self, entry: ManifestEntry) -> Path | None:
        """Where the model's file is or would be; None if it is no single file."""
        url = entry.source.url
        if url.startswith(FILE):
            return self._repository / url.removeprefix(FILE)
        if entry.source.is_web:
            return self.root / entry.id / urlsplit(url).path.rsplit("/", 1)[1]
        return None

    def has(self, entry: ManifestEntry) -> bool:
        """Whether the model's whole file is here. Quick: it does not read the file."""
        path = self.path(entry)
        return path is not None and path.is_file()

    def verify(self, entry: ManifestEntry) -> None:
        """Read the whole file and compare. Raises NotFound or Unprocessable."""
        path = self.path(entry)
        if path is None or not path.is_file():
            raise NotFound(
                "not_pulled", f"{entry.id} is not here ({path}).", f"variet models pull {entry.id}"
            )
        expected = entry.source.sha256 or self._record().get(entry.id, {}).get("sha256")
        if expected is None:
            return
        found = file_sha256(path)
        if found != expected:
            raise Unprocessable(
                "wrong_checksum",
                f"{path} has SHA-256 {found}, expected {expected}.",
                f"Delete it and pull it again: variet models pull {entry.id}",
            )

    def pull(self, entry: ManifestEntry, on_progress: OnProgress = lambda _: None) -> Pulled:
        """Fetch the model, or finish fetching it, and verify it. Raises VarietError with what to
        do; an interrupted pull goes on from where it ended."""
        path = self.path(entry)
        if path is None or not entry.source.is_web:
            return self._local(entry, path)
        self._prepare(path.parent)
        with self._alone(entry, path.parent):
            wanted, trusted = self._wanted(entry)
            if not self._whole(entry, path, wanted):
                part = path.with_name(f"{path.name}.part")
                self._check_space(wanted, part)
                fetch(wanted, part, self._remote, on_progress)
                self._keep(part, path)
            pulled = Pulled(path, wanted.sha256, wanted.bytes, trusted)
            self._note(entry, pulled)
        return pulled

    def _local(self, entry: ManifestEntry, path: Path | None) -> Pulled:
        if path is None:
            raise Unprocessable(
                "not_a_file",
                f"{entry.id} ({entry.source.url}) is fetched by its engine, {entry.engine}.",
                "There is nothing to pull: the engine does it at its first start.",
            )
        self.verify(entry)
        return Pulled(path, file_sha256(path), path.stat().st_size, "manifest")

    def _wanted(self, entry: ManifestEntry) -> tuple[Wanted, Literal["manifest", "hub"]]:
        source = entry.source
        url = source.url
        if url.startswith(f"{HUB}/"):
            url = self._remote.endpoint + url.removeprefix(HUB)
        if source.sha256 and source.bytes:
            return Wanted(url, source.sha256, source.bytes), "manifest"
        recorded = self._remote.recorded(url)
        for key, mine, theirs in (
            ("sha256", source.sha256, recorded.sha256),
            ("bytes", source.bytes, recorded.bytes),
        ):
            if mine is not None and mine != theirs:
                raise Unprocessable(
                    "wrong_checksum",
                    f"{entry.id}: the manifest says {key}={mine}, the server {theirs}.",
                    "The file was changed at its source; pin the revision in the manifest.",
                )
        return recorded, "hub"

    def _whole(self, entry: ManifestEntry, path: Path, wanted: Wanted) -> bool:
        """A file of this name is complete; it is read again only if it was verified as another."""
        if not path.is_file():
            return False
        record = self._record().get(entry.id, {})
        same = record.get("sha256") == wanted.sha256 and path.stat().st_size == wanted.bytes
        if same or file_sha256(path) == wanted.sha256:
            return True
        path.unlink()
        return False

    def _prepare(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                "store_write",
                f"MODEL_STORE={self.root} cannot be written: {error.strerror}.",
                "Make it writable, or set MODEL_STORE to another folder.",
            ) from error

    @contextmanager
    def _alone(self, entry: ManifestEntry, folder: Path) -> Iterator[None]:
        with (folder / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(
                    "pull_running",
                    f"Another process is pulling {entry.id} into {folder}.",
                    "Wait for it, or stop it.",
                ) from None
            yield

    def _check_space(self, wanted: Wanted, part: Path) -> None:
        missing = wanted.bytes - (part.stat().st_size if part.exists() else 0)
        free = shutil.disk_usage(part.parent).free
        if missing + SPARE_BYTES > free:
            raise StoreError(
                "disk_full",
                f"{wanted.url} needs {missing // MIB} MiB more in {part.parent}, and"
                f" {SPARE_BYTES // MIB} MiB to spare; {free // MIB} MiB are free.",
                "Free some space, or set MODEL_STORE to a folder on another disk.",
            )

    def _keep(self, part: Path, path: Path) -> None:
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)

    @property
    def _records(self) -> Path:
        return self.root / "pulled.json"

    def _record(self) -> dict[str, dict[str, Any]]:
        try:
            kept: dict[str, dict[str, Any]] = json.loads(self._records.read_text())
        except FileNotFoundError:
            return {}
        except ValueError:
            # Only a memory of past checks: without it, files are read again.
            return {}
        return kept

    def _note(self, entry: ManifestEntry, pulled: Pulled) -> None:
        with (self.root / "pulled.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            kept = self._record()
            kept[entry.id] = {
                "url": entry.source.url,
                "sha256": pulled.sha256,
                "bytes": pulled.bytes,
                "trusted": pulled.trusted,
                "verified_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            new = self._records.with_suffix(".new")
            new.write_text(json.dumps(kept, indent=2) + "\n")
            new.replace(self._records)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(
    model_id: str, manifest: Path = MANIFEST, repository: Path = REPOSITORY
) -> tuple[str, int]:
    """Write SHA-256 and size of a `file:` entry's file into the manifest, and return them.
    Only these two values change in the text, comments stay."""
    entry = load_manifest(manifest).get(model_id)
    if entry is None or not entry.source.url.startswith(FILE):
        raise NotFound(
            "no_entry", f"{manifest} has no file: entry {model_id!r}.", "Add it, then seal it."
        )
    path = repository / entry.source.url.removeprefix(FILE)
    if not path.is_file():
        raise NotFound("no_file", f"{path} does not exist.", "Make it, then seal it.")
    digest, size = file_sha256(path), path.stat().st_size
    text = manifest.read_text(encoding="utf-8")
    head, mark, tail = text.partition(f"url: {entry.source.url}\n")
    values = rf"sha256: {digest}\n\1bytes: {size}\n"
    sealed = re.sub(r"sha256: .*\n(\s+)bytes: .*\n", values, tail, count=1)
    manifest.write_text(head + mark + sealed, encoding="utf-8")
    load_manifest.cache_clear()
    return digest, size


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] != "seal":
        print("usage: python -m models.store seal ID", file=sys.stderr)
        return 2
    try:
        digest, size = seal(arguments[1])
    except VarietError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{arguments[1]}: sha256 {digest}, {size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
