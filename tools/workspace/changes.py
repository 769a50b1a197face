"""Changing several files as one: all of them, or none, and always reversible.

Before anything changes, the old contents are saved and synced under the undo folder. Then each new
content is written beside its file, and only when all are written are they renamed into place. A
failure on the way puts back what was renamed; a crash on the way leaves the saved state, and
`undo` brings back every file that is not yet, or already, as it was.
"""

import base64
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from contracts.errors import Conflict, NotFound, Unprocessable, VarietError
from tools.workspace.files import replace_file, write_temporary
from tools.workspace.paths import (
    Place,
    check_writable,
    explained,
    kind_of,
    open_file,
    open_folder,
    shown,
)

MAX_FILE_BYTES = 4 * 1024 * 1024
UNDO_SUFFIX = ".json"
MAX_SAVED = 200  # saved states; the oldest go


@dataclass(frozen=True, slots=True)
class Change:
    """One file's content before and after; None: the file is not there."""

    place: Place
    before: bytes | None
    after: bytes | None


def read_bytes(place: Place) -> bytes | None:
    """A regular file's bytes, or None where nothing is. Raises for whatever else lies there."""
    try:
        with open_folder(place.parent) as folder:
            if kind_of(folder, place.name) is None:
                return None
            with os.fdopen(open_file(folder, place), "rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
    except NotFound:
        return None
    if len(data) > MAX_FILE_BYTES:
        raise Unprocessable(
            "too_large",
            f"{shown(str(place))} is larger than {MAX_FILE_BYTES} bytes.",
            "Change it by hand.",
        )
    return data


def commit(changes: list[Change], undo_dir: Path) -> str:
    """Make all changes or none; returns the name under which they can be undone.

    Raises Conflict when a file is no longer as `before` says, and what the file system refuses.
    """
    for change in changes:
        check_writable(change.place)
    name = _save(changes, undo_dir)
    try:
        _replace_all(changes)
    except (VarietError, OSError):
        (undo_dir / f"{name}{UNDO_SUFFIX}").unlink()
        raise
    return name


def undo(undo_dir: Path, name: str) -> list[str]:
    """Bring back the files of a saved state; returns their paths. The state is then gone.

    Raises NotFound for an unknown name, Conflict when a file has changed since.
    """
    saved = undo_dir / f"{name}{UNDO_SUFFIX}"
    if "/" in name or name.startswith(".") or not saved.is_file():
        raise NotFound(
            "unknown_undo",
            f"There is no saved state {shown(name)!r} in {undo_dir}.",
            "List them: python -m tools.workspace list",
        )
    changes = []
    for entry in json.loads(saved.read_text("utf-8"))["changes"]:
        place = Place(Path(entry["root"]), tuple(entry["path"].split("/")))
        before = None if entry["before"] is None else base64.b64decode(entry["before"])
        now = read_bytes(place)
        if now == before:
            continue
        if digest(now) != entry["after"]:
            raise _changed(place)
        changes.append(Change(place, now, before))
    _replace_all(changes)
    saved.unlink()
    return [str(change.place) for change in changes]


def saved_states(undo_dir: Path) -> Iterator[tuple[str, list[str]]]:
    """The names of the saved states, newest first, each with the paths that it brings back."""
    for saved in sorted(undo_dir.glob(f"*{UNDO_SUFFIX}"), reverse=True):
        state = json.loads(saved.read_text("utf-8"))
        yield state["name"], [entry["path"] for entry in state["changes"]]


def digest(data: bytes | None) -> str | None:
    """SHA-256 of a file's bytes; None for no file."""
    return None if data is None else hashlib.sha256(data).hexdigest()


def _save(changes: list[Change], undo_dir: Path) -> str:
    """Write and sync the state that reverses the changes."""
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    entries = [
        {
            "root": str(change.place.root),
            "path": str(change.place),
            "before": None
            if change.before is None
            else base64.b64encode(change.before).decode("ascii"),
            "after": digest(change.after),
        }
        for change in changes
    ]
    place = Place(undo_dir.absolute(), (f"{name}{UNDO_SUFFIX}",))
    data = json.dumps({"name": name, "changes": entries}).encode()
    with explained(place):
        undo_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open_folder(place.parent) as folder:
        replace_file(folder, place, data)
    for old in sorted(undo_dir.glob(f"*{UNDO_SUFFIX}"))[:-MAX_SAVED]:
        old.unlink(missing_ok=True)
    return name


def _replace_all(changes: list[Change]) -> None:
    with ExitStack() as folders:
        transaction = _Transaction(folders)
        try:
            for change in changes:
                transaction.prepare(change)
            transaction.put()
        except (VarietError, OSError):
            transaction.roll_back()
            raise


class _Transaction:
    """New contents beside their files, then in their place, and the way back from there."""

    def __init__(self, folders: ExitStack) -> None:
        self.folders = folders
        self.prepared: list[tuple[int, Change, str | None]] = []
        self.done: list[tuple[int, Change]] = []
        self.made: list[Place] = []

    def prepare(self, change: Change) -> None:
        writes = change.after is not None
        if writes:
            self.made += _missing_folders(change.place)
        folder = self.folders.enter_context(open_folder(change.place.parent, create=writes))
        temporary = None
        if change.after is not None:
            with explained(change.place):
                temporary = write_temporary(folder, change.place, change.after)
        self.prepared.append((folder, change, temporary))

    def put(self) -> None:
        for folder, change, temporary in self.prepared:
            _check_unchanged(folder, change)
            with explained(change.place):
                if temporary is None:
                    os.unlink(change.place.name, dir_fd=folder)
                else:
                    os.replace(temporary, change.place.name, src_dir_fd=folder, dst_dir_fd=folder)
            self.done.append((folder, change))
        for folder, _ in self.done:
            os.fsync(folder)

    def roll_back(self) -> None:
        for folder, change in reversed(self.done):
            if change.before is None:
                os.unlink(change.place.name, dir_fd=folder)
            else:
                replace_file(folder, change.place, change.before)
        for folder, _, temporary in self.prepared:
            if temporary is not None:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=folder)
        for place in sorted(self.made, key=lambda place: -len(place.names)):
            with suppress(VarietError, OSError), open_folder(place.parent) as parent:
                os.rmdir(place.name, dir_fd=parent)


def _check_unchanged(folder: int, change: Change) -> None:
    kind = kind_of(folder, change.place.name)
    now = None
    if kind is not None:
        with os.fdopen(open_file(folder, change.place), "rb") as file:
            now = file.read(MAX_FILE_BYTES + 1)
    if now != change.before:
        raise _changed(change.place)


def _missing_folders(place: Place) -> list[Place]:
    """The folders above a place that are not there yet, from the top down."""
    above = [Place(place.root, place.names[:depth]) for depth in range(1, len(place.names))]
    for index, folder in enumerate(above):
        with open_folder(folder.parent) as parent:
            if kind_of(parent, folder.name) is None:
                return above[index:]
    return []


def _changed(place: Place) -> Conflict:
    return Conflict(
        "changed_meanwhile",
        f"{shown(str(place))} has changed meanwhile.",
        "Read it again and repeat the change.",
    )
