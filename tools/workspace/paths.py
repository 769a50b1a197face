"""Paths inside the workspace, and the way down to them that no link can bend.

A path is walked folder by folder with open file descriptors (`openat` with O_NOFOLLOW), and every
operation happens relative to the last of them. A folder that is swapped for a link between a check
and its use makes the walk fail; it never leads outside.
"""

import errno
import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from contracts.errors import BadRequest, Forbidden, NotFound, Unprocessable, VarietError

MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 1024
DRIVE = re.compile(r"[A-Za-z]:")

# Whoever writes here makes git, an editor or a build server run something.
PROTECTED = frozenset(
    {
        ".git", ".gitmodules", ".gitattributes", ".github", ".gitlab-ci.yml", ".vscode", ".idea",
        ".devcontainer", ".husky", ".envrc", ".pre-commit-config.yaml",
    }
)  # fmt: skip

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Place:
    """A path below a root: its names from the root down. No names: the root itself."""

    root: Path
    names: tuple[str, ...]

    def __str__(self) -> str:
        return "/".join(self.names) or "."

    @property
    def path(self) -> Path:
        return self.root.joinpath(*self.names)

    @property
    def name(self) -> str:
        return self.names[-1]

    @property
    def parent(self) -> "Place":
        return Place(self.root, self.names[:-1])

    def __truediv__(self, other: "Place") -> "Place":
        return Place(self.root, self.names + other.names)


class Workspace:
    """The folders that tools may work in. Relative paths belong to the first; an absolute path
    belongs to the root that it lies in."""

    def __init__(self, roots: Sequence[Path]) -> None:
        if not roots:
            raise BadRequest("no_workspace", "The workspace has no folder.", "Set WORKSPACE_DIR.")
        self.roots = [root.absolute() for root in roots]

    def locate(self, text: str) -> Place:
        """The place that a path names, by its letters alone. Raises BadRequest or Forbidden."""
        check_text(text)
        if not text.startswith("/"):
            return Place(self.roots[0], split_names(text))
        for root in self.roots:
            if text == str(root) or text.startswith(f"{root}/"):
                return Place(root, split_names(text[len(str(root)) + 1 :]))
        raise Forbidden(
            "outside_workspace",
            f"The path {shown(text)} is outside the workspace.",
            "Give a path relative to the workspace.",
        )


def check_text(text: str) -> None:
    """Refuse what is no plain path: other systems' notations, and letters that hide others."""
    if text.startswith("~"):
        raise _bad_path(text, "'~' is not expanded")
    if "\\" in text:
        raise _bad_path(text, "it holds a backslash")
    if DRIVE.match(text):
        raise _bad_path(text, "it starts with a drive letter")
    for letter in text:
        if unicodedata.category(letter) in ("Cc", "Cf", "Cs"):
            raise _bad_path(text, f"it holds the invisible character U+{ord(letter):04X}")
    if len(text.encode()) > MAX_PATH_BYTES:
        raise _bad_path(text, f"it is longer than {MAX_PATH_BYTES} bytes")


def split_names(text: str) -> tuple[str, ...]:
    """The names of a relative path. `..` is refused even where it would stay inside."""
    names = tuple(name for name in text.split("/") if name not in ("", "."))
    for name in names:
        if name == "..":
            raise Forbidden(
                "outside_workspace",
                f"The path {shown(text)} goes up with '..'.",
                "Give a path relative to the workspace, without '..'.",
            )
        if len(name.encode()) > MAX_NAME_BYTES:
            raise _bad_path(text, f"a name in it is longer than {MAX_NAME_BYTES} bytes")
    return names


def check_writable(place: Place) -> None:
    """Refuse to change the root itself, or anything that other programs run by itself."""
    if not place.names:
        raise Forbidden(
            "workspace_root", "The workspace itself cannot be changed.", "Name a path below it."
        )
    for name in place.names:
        if name.rstrip(" .").casefold() in PROTECTED:
            raise Forbidden(
                "protected_path",
                f"{shown(str(place))} is protected: {name} makes other programs run code.",
                "Change it by hand.",
            )


@contextmanager
def open_folder(place: Place, create: bool = False) -> Iterator[int]:
    """A descriptor of a folder, reached from the root without following any link.

    With `create`, missing folders on the way are made. Raises NotFound, Forbidden for links,
    Unprocessable where a file stands in the way.
    """
    fd = _open_root(place.root)
    try:
        for depth, name in enumerate(place.names, 1):
            here = Place(place.root, place.names[:depth])
            with explained(here):
                if create:
                    _make_folder(name, fd)
                below = _enter(name, fd, here)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)


def kind_of(folder: int, name: str) -> str | None:
    """What lies in a folder under a name: file, directory, link, special, or None: nothing."""
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None
    return kind_of_mode(mode)


def kind_of_mode(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "link" if stat.S_ISLNK(mode) else "special"


def open_file(folder: int, place: Place) -> int:
    """A descriptor of a regular file. Links, folders, devices, FIFOs and sockets are refused, and
    what was swapped in after the check is refused by its descriptor."""
    with explained(place):
        kind = kind_of(folder, place.name)
        if kind != "file":
            raise not_a_file(place, kind)
        fd = os.open(place.name, FILE, dir_fd=folder)
    kind = kind_of_mode(os.fstat(fd).st_mode)
    if kind != "file":
        os.close(fd)
        raise not_a_file(place, kind)
    return fd


def not_a_file(place: Place, kind: str | None) -> VarietError:
    """The error for a path where no regular file lies."""
    path = shown(str(place))
    if kind is None:
        return NotFound("no_file", f"There is no file {path}.", "List the folder first.")
    if kind == "directory":
        return Unprocessable("is_directory", f"{path} is a directory.", "Name a file.")
    return Forbidden(
        "not_a_regular_file",
        f"{path} is a {'link' if kind == 'link' else 'device, FIFO or socket'}.",
        "Only regular files and directories are served.",
    )


@contextmanager
def explained(place: Place) -> Iterator[None]:
    """Turn what the system refuses at a place into an error that says so."""
    try:
        yield
    except FileNotFoundError as error:
        raise not_a_file(place, None) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise not_a_file(place, "link") from error
        raise Unprocessable(
            "file_error",
            f"{shown(str(place))}: {error.strerror or type(error).__name__}.",
            "Check the path, its permissions and the free space.",
        ) from error


def shown(text: str, limit: int = 120) -> str:
    """A name as it can be printed: invisible letters escaped, long ones cut."""
    plain = "".join(
        letter
        if unicodedata.category(letter) not in ("Cc", "Cf", "Cs")
        else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )
    return plain if len(plain) <= limit else f"{plain[:limit]}…"


def _open_root(root: Path) -> int:
    try:
        return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise NotFound(
            "no_workspace", f"There is no folder {root}.", "Create it, or correct the setting."
        ) from error


def _make_folder(name: str, parent: int) -> None:
    try:
        os.mkdir(name, mode=0o755, dir_fd=parent)
    except FileExistsError:
        return


def _enter(name: str, parent: int, place: Place) -> int:
    try:
        return os.open(name, FOLDER, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        kind = kind_of(parent, name)
        if kind != "file":
            raise not_a_file(place, kind if kind != "directory" else "link") from error
        raise Unprocessable(
            "not_a_directory", f"{shown(str(place))} is a file, not a directory.", "Check the path."
        ) from error


def _bad_path(text: str, why: str) -> BadRequest:
    return BadRequest(
        "bad_path", f"The path {shown(text)!r} is refused: {why}.", "Give a plain relative path."
    )
