"""A state folder as one compressed tar stream, and back.

Standard library only: this file is also handed, as it is, to the Python of a container, which
does the same to the volume that is mounted there:

    python -c SOURCE pack FOLDER > tree.tar.gz
    python -c SOURCE unpack FOLDER < tree.tar.gz       # what it replaces is kept aside
    python -c SOURCE settle FOLDER                     # removes what was kept aside
    python -c SOURCE undo FOLDER                       # puts it back
"""

import contextlib
import gzip
import hashlib
import os
import shutil
import sqlite3
import stat
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

# At the top of a state folder: models come back by `variet models pull`, logs are of no use to a
# restored one, and locks belong to whoever holds them.
LEFT_OUT = frozenset({"models", "hub", "logs", "lost+found"})
OURS = ".variet-"
RESTORED, REPLACED = f"{OURS}restored", f"{OURS}replaced"
BLOCK = 1 << 16
ZEROS = bytes(BLOCK)


class Damaged(ValueError):
    """The stream is cut short, garbled, or names what no state folder holds."""


def pack(folder: Path, out: IO[bytes], live: bool = False) -> str:
    """Write the folder; a fingerprint of what was written. `live`: someone has the databases
    open, so they are copied as SQLite itself copies them."""
    seen = hashlib.sha256()
    with (
        gzip.GzipFile("", "wb", 1, out, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path, name in _files(folder, live):
            _add(tar, path, name, seen)
        if live:
            with tempfile.TemporaryDirectory(prefix=OURS, dir=folder) as scratch:
                for path in _databases(folder):
                    _add(tar, _copied(path, Path(scratch)), path.name, None)
    return seen.hexdigest()


def fingerprint(folder: Path) -> str:
    """Of all that `pack` would read by itself while the stack is live."""
    seen = hashlib.sha256()
    for path, name in _files(folder, live=True):
        _note(seen, path, name)
    return seen.hexdigest()


def check(stream: IO[bytes]) -> int:
    """Read it all and find nothing wrong; the number of files."""
    count = 0
    for member, content in _members(stream):
        count += member.isreg()
        while content and content.read(BLOCK):
            pass
    return count


def unpack(stream: IO[bytes], folder: Path) -> None:
    """Put the stream's files in the place of the folder's. Until `settle` or `undo` those are
    kept aside. Whatever goes wrong on the way, the folder is as it was."""
    folder.mkdir(parents=True, exist_ok=True)
    _mend(folder)
    staging = folder / RESTORED
    staging.mkdir(mode=0o700)
    try:
        _extract(stream, staging)
        _swap(folder, staging)
    except BaseException:  # boundary: an interrupt, too, has to leave the folder as it was
        undo(folder)
        raise


def settle(folder: Path) -> None:
    shutil.rmtree(folder / REPLACED, ignore_errors=True)
    shutil.rmtree(folder / RESTORED, ignore_errors=True)


def undo(folder: Path) -> None:
    """Put back what a restore moved aside, also one that was killed half way; else do nothing."""
    aside = folder / REPLACED
    if aside.is_dir():
        # Written before the first file came in; until then nothing of the folder is the restore's.
        if (aside / ".complete").exists():
            for path in _replaceable(folder):
                _remove(path)
        for path in sorted(aside.iterdir()):
            if path.name != ".complete":
                path.rename(folder / path.name)
    settle(folder)


def _mend(folder: Path) -> None:
    """After a restore that was killed: half a swap is undone; a whole one may have been worked on
    since, and what it replaced goes."""
    if (folder / RESTORED).exists():
        undo(folder)
    else:
        settle(folder)


def _swap(folder: Path, staging: Path) -> None:
    aside = folder / REPLACED
    aside.mkdir(mode=0o700)
    for path in _replaceable(folder):
        path.rename(aside / path.name)
    (aside / ".complete").touch()
    for path in sorted(staging.iterdir()):
        path.rename(folder / path.name)
    staging.rmdir()


def _replaceable(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.name not in LEFT_OUT and path.suffix != ".lock" and not path.name.startswith(OURS)
    ]


def _files(folder: Path, live: bool) -> Iterator[tuple[Path, str]]:
    """Folders, files and links with their names in the archive, parents first."""
    databases = set(_databases(folder)) if live else set()
    for top in _replaceable(folder):
        if top in databases or top.name.endswith("-shm") or (live and top.name.endswith("-wal")):
            continue
        yield from _walk(top, top.name)


def _walk(path: Path, name: str) -> Iterator[tuple[Path, str]]:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        yield path, name
        try:
            found = sorted(path.iterdir())
        except FileNotFoundError:  # meanwhile; the next reading will tell
            return
        for inner in found:
            yield from _walk(inner, f"{name}/{inner.name}")
    elif stat.S_ISREG(mode) or stat.S_ISLNK(mode):
        yield path, name


def _databases(folder: Path) -> list[Path]:
    """The store before its journal: after a crash, too, the journal may be the newer one."""
    return sorted(folder.glob("*.db"), key=lambda path: (path.name != "variet.db", path.name))


def _copied(path: Path, scratch: Path) -> Path:
    copy = scratch / path.name
    with (
        contextlib.closing(sqlite3.connect(path)) as source,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
    return copy


def _add(tar: tarfile.TarFile, path: Path, name: str, seen: "hashlib._Hash | None") -> None:
    try:
        info = tar.gettarinfo(path, name)
        if info.islnk():  # a second name of a file is a file of its own
            info.type, info.linkname, info.size = tarfile.REGTYPE, "", path.stat().st_size
        if not info.isreg():
            tar.addfile(info)
            size = 0
        else:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                info.size = size
                tar.addfile(info, _Exactly(file, size))  # type: ignore[arg-type]
    except FileNotFoundError:
        return
    if seen is not None:
        _note(seen, path, name)


class _Exactly:
    """A file of `size` bytes, even if it was cut short meanwhile."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int) -> bytes:
        size = min(size, self._left)
        self._left -= size
        return self._file.read(size).ljust(size, b"\0")


def _note(seen: "hashlib._Hash", path: Path, name: str) -> None:
    try:
        mode = path.lstat().st_mode
        seen.update(f"{name}\0{mode}\0".encode("utf-8", "surrogateescape"))
        if stat.S_ISREG(mode):
            with path.open("rb") as file:
                while block := file.read(BLOCK):
                    seen.update(block)
    except FileNotFoundError:
        seen.update(b"gone")


def _members(stream: IO[bytes]) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """Each member that may be written as it is named. Raises Damaged for any other."""
    names: dict[str, bool] = {}
    try:
        with gzip.GzipFile(fileobj=stream) as plain:
            with tarfile.open(fileobj=plain, mode="r|") as tar:
                for member in tar:
                    _admit(member, names)
                    yield member, tar.extractfile(member) if member.isreg() else None
            # Beyond the end of the tar lies the checksum of the compressed stream.
            while plain.read(BLOCK):
                pass
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Damaged(f"the stream is cut short or garbled ({error})") from error


def _admit(member: tarfile.TarInfo, names: dict[str, bool]) -> None:
    """`names` are those so far, each with whether it is a link."""
    name = member.name
    pure = PurePosixPath(name)
    if not pure.parts or pure.is_absolute() or ".." in pure.parts or str(pure) != name:
        raise Damaged(f"{name!r} leads out of the folder")
    if pure.parts[0] in LEFT_OUT or name.startswith(OURS):
        raise Damaged(f"{name!r} is not part of a backup")
    if not (member.isreg() or member.isdir() or member.issym()):
        raise Damaged(f"{name!r} is neither a file nor a folder nor a link")
    if name in names:
        raise Damaged(f"{name!r} is there twice")
    if any(names.get(str(parent)) for parent in pure.parents):
        raise Damaged(f"{name!r} goes through a link")
    names[name] = member.issym()


def _extract(stream: IO[bytes], target: Path) -> None:
    folders, links = [], []
    for member, content in _members(stream):
        path = target / member.name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if member.isdir():
            path.mkdir(mode=0o700, exist_ok=True)
            folders.append((path, member))
        elif member.issym():
            links.append((path, member))
        else:
            assert content
            _write(content, path, member)
    # Links last, so that nothing can be written through one; folders' own rights after that.
    for path, member in links:
        path.symlink_to(member.linkname)
        _own(path, member)
    for path, member in reversed(folders):
        _own(path, member)


def _write(content: IO[bytes], path: Path, member: tarfile.TarInfo) -> None:
    with path.open("xb") as file:
        while block := content.read(BLOCK):
            # The index's write-ahead log is mostly a hole; it stays one.
            if block == ZEROS[: len(block)]:
                file.seek(len(block), os.SEEK_CUR)
            else:
                file.write(block)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
    _own(path, member)


def _own(path: Path, member: tarfile.TarInfo) -> None:
    """Rights and time as they were; the owner too, which only root can give."""
    if os.geteuid() == 0:
        os.chown(path, member.uid, member.gid, follow_symlinks=False)
    if not member.issym():
        path.chmod(member.mode & 0o777)
        os.utime(path, (member.mtime, member.mtime))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def main(arguments: list[str]) -> int:
    verb, folder = arguments[0], Path(arguments[1])
    try:
        match verb:
            case "pack":
                pack(folder, sys.stdout.buffer)
            case "unpack":
                unpack(sys.stdin.buffer, folder)
            case "settle":
                settle(folder)
            case "undo":
                undo(folder)
            case _:
                raise Damaged(f"there is no {verb}")
    except (OSError, Damaged, sqlite3.Error) as error:
        print(f"{folder}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
