"""Reading a folder's regular files, and nothing that only looks like one."""

import os
import stat
from pathlib import Path

from contracts.errors import NotFound, Unprocessable


def regular_files(folder: Path, suffixes: frozenset[str] | None = None) -> list[Path]:
    """The regular files directly in `folder`, by name; without hidden ones, links, devices, and
    names that are not UTF-8, which no answer could carry.

    Raises NotFound when there is no such folder.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(
            "no_folder", f"There is no folder {folder}.", "Create it, or correct the setting."
        ) from error
    return [
        Path(entry.path)
        for entry in entries
        if not entry.name.startswith(".")
        and entry.is_file(follow_symlinks=False)
        and _is_text(entry.name)
        and (suffixes is None or Path(entry.name).suffix.lower() in suffixes)
    ]


def open_regular(path: Path) -> int:
    """A descriptor of a regular file, never through a link, never blocking.

    Raises NotFound, or Unprocessable for links, devices and what else is no file.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(
            "no_file", f"There is no file {path.name}.", "List the files first."
        ) from error
    except OSError as error:
        raise _unreadable(path, error.strerror or "cannot be opened") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _unreadable(path, "is not a regular file")
    return fd


def read_regular(path: Path, limit: int) -> str:
    """The text of a regular file of at most `limit` bytes.

    Raises like `open_regular`, and Unprocessable for files too large and text not in UTF-8.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise _unreadable(path, f"is larger than {limit} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"is not UTF-8 at byte {error.start}") from error


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unreadable(path: Path, why: str) -> Unprocessable:
    return Unprocessable("unreadable_file", f"{path.name}: {why}.", "Replace or remove the file.")
