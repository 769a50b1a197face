"""List, read, write, move and delete, below the workspace's roots only."""

import os
import secrets
import stat
from contextlib import suppress

from contracts.errors import BadRequest, Conflict, Forbidden, Unprocessable
from contracts.tools import FileEntry, FileResult
from tools.workspace.paths import (
    Place,
    Workspace,
    check_writable,
    explained,
    kind_of,
    not_a_file,
    open_file,
    open_folder,
    shown,
)

MAX_READ_BYTES = 64 * 1024
MAX_WRITE_BYTES = 1024 * 1024
MAX_ENTRIES = 1000
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def list_folder(place: Place) -> FileResult:
    """The entries of a folder by name, at most 1000; `truncated` says whether there are more."""
    with open_folder(place) as folder, explained(place):
        names = sorted(os.listdir(folder))  # noqa: PTH208 (a descriptor, not a path)
        entries = [_entry(folder, name) for name in names[:MAX_ENTRIES]]
    return FileResult(
        operation="list",
        path=str(place),
        truncated=len(names) > MAX_ENTRIES,
        entries=[entry for entry in entries if entry is not None],
    )


def read_file(place: Place) -> FileResult:
    """The first 64 KiB of a text file. `bytes` is its whole size. Binary files are refused."""
    data, size = _head(place)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        # A cut in the middle of a letter is ours; anything else is not text.
        if size <= MAX_READ_BYTES or error.start < len(data) - 3:
            raise _binary(place, size) from error
        text = data[: error.start].decode("utf-8")
    if "\0" in text:
        raise _binary(place, size)
    return FileResult(
        operation="read",
        path=str(place),
        bytes=size,
        truncated=size > MAX_READ_BYTES,
        content=text,
    )


def write_file(place: Place, content: str) -> FileResult:
    """Write a whole file at once: readers see the old text or the new one. Makes its folders."""
    check_writable(place)
    try:
        data = content.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRequest(
            "bad_content",
            f"content: character {error.start} is a lone surrogate.",
            "Send valid Unicode text.",
        ) from error
    if len(data) > MAX_WRITE_BYTES:
        raise Unprocessable(
            "too_large",
            f"content has {len(data)} bytes, the limit is {MAX_WRITE_BYTES}.",
            "Write less, or in several files.",
        )
    with open_folder(place.parent, create=True) as folder:
        replace_file(folder, place, data)
    return FileResult(operation="write", path=str(place), bytes=len(data))


def move(place: Place, target: Place) -> FileResult:
    """Move a file or directory to a path where nothing is yet."""
    check_writable(place)
    check_writable(target)
    with open_folder(place.parent) as source:
        kind = kind_of(source, place.name)
        if kind not in ("file", "directory"):
            raise not_a_file(place, kind)
        if target.path.is_relative_to(place.path):
            raise _into_itself(place, target)
        with open_folder(target.parent, create=True) as folder:
            if kind_of(folder, target.name) is not None:
                raise _exists(target)
            with explained(place):
                if kind == "directory":
                    os.rename(place.name, target.name, src_dir_fd=source, dst_dir_fd=folder)
                else:
                    _move_file(place, source, target, folder)
    return FileResult(operation="move", path=str(place), to=str(target))


def delete(place: Place) -> FileResult:
    """Delete a file or an empty directory."""
    check_writable(place)
    with open_folder(place.parent) as folder:
        kind = kind_of(folder, place.name)
        if kind not in ("file", "directory"):
            raise not_a_file(place, kind)
        with explained(place):
            if kind == "directory":
                os.rmdir(place.name, dir_fd=folder)
            else:
                os.unlink(place.name, dir_fd=folder)
    return FileResult(operation="delete", path=str(place))


def operate(
    workspace: Workspace, operation: str, path: str, content: str | None, to: str | None
) -> FileResult:
    """Do one file operation. Arguments that it does not take are refused."""
    _check_arguments(operation, content, to)
    place = workspace.locate(path)
    if operation == "list":
        return list_folder(place)
    if not place.names:
        raise Unprocessable("is_directory", "The path is the workspace itself.", "Name a file.")
    if operation == "read":
        return read_file(place)
    if operation == "write":
        return write_file(place, content or "")
    if operation == "move":
        return move(place, workspace.locate(to or ""))
    return delete(place)


def replace_file(folder: int, place: Place, data: bytes) -> None:
    """Put a whole new file in place of a regular file or of nothing, atomically."""
    kind = kind_of(folder, place.name)
    if kind not in (None, "file"):
        raise not_a_file(place, kind)
    with explained(place):
        temporary = write_temporary(folder, place, data)
        try:
            os.replace(temporary, place.name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            os.unlink(temporary, dir_fd=folder)
            raise
        os.fsync(folder)


def write_temporary(folder: int, place: Place, data: bytes) -> str:
    """Write data to a new file beside `place`, with its permissions; returns the file's name."""
    name = f".variet-{secrets.token_hex(8)}"
    fd = os.open(name, NEW_FILE, mode=0o644, dir_fd=folder)
    try:
        with os.fdopen(fd, "wb") as file:
            with suppress(FileNotFoundError):
                old = os.stat(place.name, dir_fd=folder, follow_symlinks=False)
                os.fchmod(fd, stat.S_IMODE(old.st_mode) & 0o777)
            file.write(data)
            file.flush()
            os.fsync(fd)
    except OSError:
        os.unlink(name, dir_fd=folder)
        raise
    return name


def _entry(folder: int, name: str) -> FileEntry | None:
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISREG(status.st_mode):
        return FileEntry(name=shown(name), kind="file", bytes=status.st_size)
    kind = "directory" if stat.S_ISDIR(status.st_mode) else "other"
    return FileEntry(name=shown(name), kind=kind, bytes=0)


def _head(place: Place) -> tuple[bytes, int]:
    with open_folder(place.parent) as folder, os.fdopen(open_file(folder, place), "rb") as file:
        return file.read(MAX_READ_BYTES), os.fstat(file.fileno()).st_size


def _move_file(place: Place, source: int, target: Place, folder: int) -> None:
    try:
        # A link fails if the target has appeared meanwhile, where a rename would overwrite it.
        os.link(
            place.name, target.name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False
        )
    except FileExistsError as error:
        raise _exists(target) from error
    os.unlink(place.name, dir_fd=source)


def _check_arguments(operation: str, content: str | None, to: str | None) -> None:
    needs = {"write": "content", "move": "to"}.get(operation)
    for name, value in (("content", content), ("to", to)):
        if name == needs and value is None:
            raise BadRequest(
                "missing_argument", f"operation {operation} needs {name}.", f"Give {name}."
            )
        if name != needs and value:
            raise BadRequest(
                "unused_argument", f"operation {operation} takes no {name}.", f"Leave {name} out."
            )


def _into_itself(place: Place, target: Place) -> Conflict:
    return Conflict(
        "into_itself",
        f"{shown(str(target))} is {shown(str(place))} itself, or lies below it.",
        "Choose another path.",
    )


def _exists(place: Place) -> Conflict:
    return Conflict(
        "exists", f"{shown(str(place))} exists already.", "Choose another path, or delete it first."
    )


def _binary(place: Place, size: int) -> Forbidden:
    return Forbidden(
        "binary_file", f"{shown(str(place))} is not text ({size} bytes).", "Only text is read."
    )
