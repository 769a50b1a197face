"""One SQLite file: opened, checked, and whatever goes wrong with it said in words."""

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from contracts.errors import StoreError

JOURNAL_SIZE_LIMIT = 16 * 1024 * 1024
BUSY_TIMEOUT_S = 2  # nobody else should write; who waits here is the event loop

_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
_UNWRITABLE = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM})
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


class Database:
    """A connection in WAL mode. Raises StoreError for a full disk, a damaged, locked or
    unwritable file and a schema of another version; sqlite3.IntegrityError passes through."""

    def __init__(self, path: Path, schema: str, version: int, synchronous: str) -> None:
        self.path = path
        with explained(path):
            _make_folder(path.parent)
            self._db = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_S
            )
        try:
            with explained(path):
                self._prepare(schema, version, synchronous)
        except BaseException:  # boundary: the file is closed whatever keeps it from being used
            self._db.close()
            raise

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with explained(self.path):
            return self._db.execute(sql, values).fetchall()

    def row(self, sql: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """The first row, or None."""
        found = self.rows(sql, values)
        return found[0] if found else None

    def change(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Number of rows changed."""
        with explained(self.path):
            return self._db.execute(sql, values).rowcount

    def change_each(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        with explained(self.path):
            return self._db.executemany(sql, rows).rowcount

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the statements inside, or none."""
        with explained(self.path), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield

    def checkpoint(self) -> None:
        """Copy the WAL back into the file, on a connection of its own: any thread may do it,
        and neither readers nor writers wait for it."""
        with explained(self.path):
            db = sqlite3.connect(self.path)
            try:
                db.execute("PRAGMA wal_checkpoint(PASSIVE)")
            finally:
                db.close()

    def sync(self) -> None:
        """Bring every commit so far to the disk. Any thread may do it."""
        wal = self.path.with_name(f"{self.path.name}-wal")
        try:
            descriptor = os.open(wal, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StoreError(
                "store_full",
                f"{wal} cannot be brought to the disk: {error.strerror}.",
                "Free space on its disk, or replace it.",
            ) from error

    def close(self) -> None:
        with explained(self.path):
            self._db.close()

    def _prepare(self, schema: str, version: int, synchronous: str) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(f"PRAGMA synchronous={synchronous}")
        self._db.execute("PRAGMA foreign_keys=ON")
        self._db.execute(f"PRAGMA journal_size_limit={JOURNAL_SIZE_LIMIT}")
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found == 0:
            self._db.executescript(f"BEGIN; {schema} PRAGMA user_version={version}; COMMIT;")
        elif found != version:
            raise StoreError(
                "store_version",
                f"{self.path} has schema version {found}, this program knows {version}.",
                "Run the version of Variet that wrote it, or move the file away.",
            )


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns SQLite's errors about the file into StoreError; defects of ours stay as they are."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.DatabaseError as error:
        fault = _fault(path, error)
        if fault is None:
            raise
        raise fault from error


def _fault(path: Path, error: sqlite3.DatabaseError) -> StoreError | None:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _FULL:
        return StoreError(
            "store_full",
            f"{path} cannot be written: {error}.",
            "Free space on its disk, or set STATE_DIR to a folder on a larger one.",
        )
    if code in _DAMAGED:
        return StoreError(
            "store_damaged", f"{path} is damaged: {error}.", "Restore it from a backup."
        )
    if code in _UNWRITABLE:
        return _unwritable(path, error)
    if code in _BUSY:
        return StoreError(
            "store_busy", f"{path} is locked: {error}.", "Close the program that has it open."
        )
    return None


def lock_folder(path: Path) -> TextIO:
    """Takes the lock file at `path`, until it is closed or the process ends. Raises StoreError
    when another process has it."""
    _make_folder(path.parent)
    try:
        lock = path.open("a")
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise StoreError(
            "store_in_use",
            f"{path.parent} is in use by another orchestrator.",
            "Stop it, or set STATE_DIR to another folder.",
        ) from error
    return lock


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(path: Path, why: object) -> StoreError:
    return StoreError(
        "store_unwritable",
        f"{path} cannot be opened for writing: {why}.",
        "Make it and its folder writable, or set STATE_DIR to another folder.",
    )
