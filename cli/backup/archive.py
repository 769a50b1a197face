"""The archive: a plain tar, written part by part as they come, the manifest last.

The length of a part is known only when it has ended, so its header is written over then. Nothing
is held in memory, and nothing needs room twice.
"""

import contextlib
import errno
import hashlib
import os
import re
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Self

from pydantic import ValidationError

from cli.backup.manifest import FORMAT, NAME, Kind, Manifest, Part
from contracts.errors import BadRequest, Conflict, NotFound, StoreError, VarietError

BLOCK = 1 << 20
UNIT = tarfile.BLOCKSIZE
PLAIN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}"  # so that a tar header of one block holds it
NAMES = re.compile(
    rf"env|state\.tar\.gz|volumes/{PLAIN}\.tar\.gz|postgres/{PLAIN}\.dump|qdrant/{PLAIN}\.snapshot"
)


class Sink:
    """Takes the bytes of one part; counts and hashes them."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self._path = path
        self._hash = hashlib.sha256()
        self.count = 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.count += len(data)
        with writing(self._path):
            return self._file.write(data)

    def flush(self) -> None:
        with writing(self._path):
            self._file.flush()

    def digest(self) -> str:
        return self._hash.hexdigest()


class Writer:
    """Writes `path` as PATH.part, 0600, and renames it when it is complete; else it is removed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parts: list[Part] = []
        self._half = path.with_name(f"{path.name}.part")

    def __enter__(self) -> Self:
        if self.path.exists():
            raise Conflict("backup_exists", f"{self.path} exists.", "Name another file.")
        with writing(self._half):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._half.unlink(missing_ok=True)
            handle = os.open(self._half, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            self._file = os.fdopen(handle, "w+b")
        return self

    def __exit__(self, kind: object, error: object, at: object) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        self._half.unlink(missing_ok=True)

    @contextmanager
    def part(
        self, name: str, kind: Kind, of: str, more: dict[str, str] | None = None
    ) -> Iterator[Sink]:
        """Write one part. When the body raises, it has never been there."""
        with writing(self._half):
            start = self._file.tell()
            self._file.write(bytes(UNIT))
        sink = Sink(self._file, self._half)
        try:
            yield sink
        except BaseException:  # boundary: half a part must not be taken for one
            with contextlib.suppress(OSError):
                self._file.seek(start)
                self._file.truncate()
            raise
        with writing(self._half):
            self._close_part(start, name, sink.count)
        self.parts.append(
            Part(
                name=name, kind=kind, of=of, bytes=sink.count, sha256=sink.digest(), more=more or {}
            )
        )

    def finish(self, manifest: Manifest) -> None:
        text = manifest.model_dump_json(indent=2).encode() + b"\n"
        with writing(self._half):
            start = self._file.tell()
            self._file.write(bytes(UNIT) + text)
            self._close_part(start, NAME, len(text))
            self._file.write(bytes(2 * UNIT))
            self._file.flush()
            os.fsync(self._file.fileno())
            self._half.rename(self.path)

    def _close_part(self, start: int, name: str, count: int) -> None:
        self._file.write(bytes(-count % UNIT))
        end = self._file.tell()
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = count, 0o600, int(time.time())
        header = info.tobuf(tarfile.GNU_FORMAT)
        assert len(header) == UNIT
        self._file.seek(start)
        self._file.write(header)
        self._file.seek(end)


class Reader:
    """An archive that was found whole: every part has the name, length and hash that the manifest
    says. It stays open, so that what was verified is what is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise NotFound(
                "no_backup", f"{path}: {error.strerror}.", "Name a backup file."
            ) from error
        try:
            self.manifest = self._verified()
        except BaseException:  # boundary: whatever is wrong with it, the file is closed
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @contextmanager
    def open(self, part: Part) -> Iterator[IO[bytes]]:
        self._file.seek(0)
        with tarfile.open(fileobj=self._file, mode="r:") as tar:
            content = tar.extractfile(part.name)
            assert content
            yield content

    def _verified(self) -> Manifest:
        seen: dict[str, tuple[int, str]] = {}
        text = b""
        try:
            with tarfile.open(fileobj=self._file, mode="r:") as tar:
                for member in tar:
                    text = self._member(tar, member, seen, text)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise self._damaged(f"it is cut short or no archive ({error})") from error
        if not text:
            raise self._damaged("it has no manifest: it is cut short, or no backup of Variet")
        manifest = self._manifest(text)
        told = {part.name: (part.bytes, part.sha256) for part in manifest.parts}
        if len(told) != len(manifest.parts):
            raise self._damaged("its manifest names a part twice")
        for name in sorted(told.keys() | seen.keys()):
            if name not in seen:
                raise self._damaged(f"{name} is missing")
            if name not in told:
                raise self._damaged(f"{name} is not in its manifest")
            if told[name] != seen[name]:
                raise self._damaged(f"{name} is not what its manifest says (SHA-256)")
        return manifest

    def _member(
        self,
        tar: tarfile.TarFile,
        member: tarfile.TarInfo,
        seen: dict[str, tuple[int, str]],
        text: bytes,
    ) -> bytes:
        """Hash one member into `seen`; the manifest's text once it has come."""
        if text:
            raise self._damaged(f"{member.name!r} comes after the manifest")
        if not member.isreg() or member.name in seen:
            raise self._damaged(f"{member.name!r} is no plain file, or there twice")
        content = tar.extractfile(member)
        assert content
        if member.name == NAME:
            return content.read(64 * BLOCK)
        if not NAMES.fullmatch(member.name) or ".." in member.name:
            raise self._damaged(f"{member.name!r} is no part of a backup")
        digest, count = hashlib.sha256(), 0
        while block := content.read(BLOCK):
            digest.update(block)
            count += len(block)
        seen[member.name] = (count, digest.hexdigest())
        return text

    def _manifest(self, text: bytes) -> Manifest:
        try:
            manifest = Manifest.model_validate_json(text)
        except ValidationError as error:
            newer = re.search(rb'"format": *(\d+)', text)
            if newer and int(newer[1]) > FORMAT:
                raise self._newer(int(newer[1])) from error
            raise self._damaged(
                f"its manifest cannot be read ({error.error_count()} faults)"
            ) from error
        if manifest.format > FORMAT:
            raise self._newer(manifest.format)
        return manifest

    def _damaged(self, why: str) -> VarietError:
        return BadRequest(
            "backup_damaged",
            f"{self.path} cannot be restored: {why}. Nothing was changed.",
            "Use another backup.",
        )

    def _newer(self, version: int) -> VarietError:
        return Conflict(
            "backup_newer",
            f"{self.path} has format {version}, this program knows {FORMAT}. Nothing was changed.",
            "Update Variet first: git pull, make update.",
        )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the disk says into StoreError."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise StoreError(
            "backup_full" if full else "backup_unwritable",
            f"{path} cannot be written: {error.strerror or error}.",
            "Free some space, or name a file on another disk." if full else "Name another file.",
        ) from error
