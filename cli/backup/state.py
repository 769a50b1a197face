"""The state folder of this host, whether or not a stack works on it."""

import contextlib
import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.backup import tree
from cli.backup.archive import Reader, Writer
from cli.backup.manifest import Part
from contracts.errors import BadRequest, Conflict, StoreError, VarietError
from orchestrator.store import journal, schema

NAME = "state.tar.gz"
ATTEMPTS = 5
LOCKS = ("stack.lock", "variet.lock")
KNOWN = {"variet.db": schema.SCHEMA_VERSION, "journal.db": journal.SCHEMA_VERSION}


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Whether the folder is ours alone while this is entered; False when a stack works on it."""
    with contextlib.ExitStack() as locks:
        for name in LOCKS if folder.is_dir() else ():
            file = locks.enter_context((folder / name).open("a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
        yield True


def save(writer: Writer, folder: Path) -> bool:
    """Add the folder; whether a stack was at work on it. It may go on: databases are copied as
    SQLite does it, and all else is read again until two readings agree, which is how it was
    between the two. Raises Conflict when it never holds still."""
    with held(folder) as alone, _explained(folder):
        owner = {"uid": str(folder.stat().st_uid), "gid": str(folder.stat().st_gid)}
        if alone:
            with writer.part(NAME, "state", str(folder), owner) as sink:
                tree.pack(folder, sink)  # type: ignore[arg-type]
            return False
        for _ in range(ATTEMPTS):
            with (
                contextlib.suppress(_Moved),
                writer.part(NAME, "state", str(folder), owner) as sink,
            ):
                written = tree.pack(folder, sink, live=True)  # type: ignore[arg-type]
                if tree.fingerprint(folder) != written:
                    raise _Moved
                return True
    raise Conflict(
        "state_moving",
        f"{folder} changed during each of {ATTEMPTS} readings.",
        "Wait until documents are indexed and files are saved, or stop the stack first.",
    )


def schemas(folder: Path) -> dict[str, int]:
    """The version of each database that is there."""
    found = {}
    for name in KNOWN:
        path = folder / name
        if path.is_file():
            with _explained(path), contextlib.closing(sqlite3.connect(path)) as db:
                found[name] = int(db.execute("PRAGMA user_version").fetchone()[0])
    return found


def check(reader: Reader, part: Part) -> int:
    """Raises BadRequest when the part cannot be put back; nothing is touched."""
    with reader.open(part) as content, undamaged(reader, part):
        return tree.check(content)


def restore(reader: Reader, part: Part, folder: Path) -> None:
    """Put the part in the place of what the folder holds, which is kept aside until `settle` or
    `undo`. What goes wrong here leaves the folder as it was."""
    # Made first, so that its locks can be held: nobody may start on it meanwhile.
    with _explained(folder):
        _make(folder, part)
    with held(folder) as alone:
        if not alone:
            raise Conflict(
                "stack_running",
                f"A Variet works on STATE_DIR={folder}. Nothing was changed.",
                "Stop it (Ctrl-C where `make run` runs), then restore.",
            )
        with reader.open(part) as content, undamaged(reader, part), _explained(folder):
            tree.unpack(content, folder)


def _make(folder: Path, part: Part) -> None:
    if folder.is_dir():
        return
    folder.mkdir(parents=True)
    uid, gid = part.more.get("uid", ""), part.more.get("gid", "")
    if os.geteuid() == 0 and uid.isdigit() and gid.isdigit():
        os.chown(folder, int(uid), int(gid))


def is_torn(folder: Path) -> bool:
    """Whether a restore has begun to change places, and not ended."""
    return (folder / tree.RESTORED).exists()


def settle(folder: Path) -> None:
    tree.settle(folder)


def undo(folder: Path) -> None:
    with _explained(folder):
        tree.undo(folder)


@contextmanager
def undamaged(reader: Reader, part: Part) -> Iterator[None]:
    try:
        yield
    except tree.Damaged as error:
        raise BadRequest(
            "backup_damaged",
            f"{reader.path}: {part.name} cannot be restored: {error}. Nothing was changed.",
            "Use another backup.",
        ) from error


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _fault(folder, error) from error
    except sqlite3.Error as error:
        raise StoreError(
            "state_damaged",
            f"A database of {folder} cannot be copied: {error}.",
            "Look at it with: variet doctor",
        ) from error


def _fault(folder: Path, error: OSError) -> VarietError:
    at = error.filename or folder
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreError(
            "state_full",
            f"{folder}: {error.strerror}. It is as it was before.",
            "Free some space on its disk.",
        )
    return StoreError(
        "state_unreadable", f"{at}: {error.strerror or error}.", "Make it readable and writable."
    )


class _Moved(Exception):
    """Two readings differ."""
