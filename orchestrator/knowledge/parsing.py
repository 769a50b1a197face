"""Files to text: what is read, as which kind of text, and what is refused with a reason."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from contracts.errors import NotFound, Unprocessable, VarietError

Kind = Literal["prose", "code", "table", "lines"]

SIZE_LIMIT = 5_000_000

_SUFFIXES: dict[Kind, str] = {
    "prose": "md markdown txt rst adoc org tex",
    "code": (
        "py pyi js jsx mjs cjs ts tsx c h cc cpp cxx hpp hh cs java kt kts go rs rb php swift scala"
        " lua pl r jl m sh bash zsh ps1 sql html htm css scss vue svelte xml json jsonl yaml yml"
        " toml ini cfg conf properties proto graphql tf cmake mk dockerfile ex exs erl hs ml clj"
        " dart zig nim asm s v sv vhd diff patch a2l"
    ),
    "table": "csv tsv",
    "lines": "log out",
}
_KINDS: dict[str, Kind] = {
    f".{suffix}": kind for kind, suffixes in _SUFFIXES.items() for suffix in suffixes.split()
}
_NAMES: dict[str, Kind] = {
    "makefile": "code",
    "dockerfile": "code",
    "jenkinsfile": "code",
    "readme": "prose",
    "license": "prose",
    "changelog": "prose",
    "authors": "prose",
    "notes": "prose",
}
# What no one asks questions about: dependencies, build results, caches. Hidden names go with
# them, and so do .env and .ssh.
_IGNORED_FOLDERS = frozenset(
    ("node_modules", "__pycache__", "venv", "env", "dist", "build", "target", "site-packages")
)
_IGNORED_ENDINGS = (".min.js", ".min.css", ".lock", "-lock.json", ".map")


@dataclass(frozen=True)
class Document:
    text: str
    kind: Kind


def kind_of(name: str) -> Kind | None:
    """The kind of text a file of this name holds; None: not one that is read."""
    path = Path(name.lower())
    return _KINDS.get(path.suffix) or _NAMES.get(path.name)


def walk(folder: Path) -> Iterator[Path]:
    """The files under `folder` that are worth indexing, in order; never through a link."""
    for current, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if name not in _IGNORED_FOLDERS and not name.startswith(".")
        )
        for name in sorted(files):
            path = Path(current, name)
            if name.startswith(".") or name.lower().endswith(_IGNORED_ENDINGS):
                continue
            if kind_of(name) and not path.is_symlink() and path.is_file():
                yield path


def read(path: Path) -> Document:
    """Read a regular file, not through a link. Raises NotFound or Unprocessable with the reason."""
    _check_name(path)
    kind = kind_of(path.name)
    if kind is None:
        raise Unprocessable(
            "unsupported_type",
            f"{path.name}: files of type '{path.suffix or path.name}' are not read.",
            "Index text, markdown, JSON, CSV, logs or source code.",
        )
    data = _read_bytes(path)
    return Document(_decode(path, data).replace("\r\n", "\n"), kind)


def _check_name(path: Path) -> None:
    """A source's name goes over the wire and into citations, so it has to be text itself."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = Path(os.fsencode(path).decode("utf-8", "replace"))
        raise _refused(shown, "its path is not UTF-8") from None


def _read_bytes(path: Path) -> bytes:
    try:
        # O_NONBLOCK: opening a FIFO must not wait for its writer.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound("no_file", f"There is no file {path}.", "Check the path.") from error
    except OSError as error:
        raise _refused(path, error.strerror or "cannot be opened") from error
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise _refused(path, "it is not a regular file")
        if status.st_size > SIZE_LIMIT:
            raise Unprocessable(
                "file_too_large",
                f"{path.name} has {status.st_size:,} bytes, the limit is {SIZE_LIMIT:,}.",
                "Split it, or index the part that matters.",
            )
        return file.read(SIZE_LIMIT)


def _decode(path: Path, data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    if b"\0" in data:
        raise _refused(path, "it holds binary data")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        # Old logs and exports: each byte is a character, so nothing is lost.
        return data.decode("cp1252", errors="replace")


def _refused(path: Path, why: str) -> VarietError:
    return Unprocessable(
        "unreadable_file", f"{path.name} was not read: {why}.", "Replace or remove the file."
    )
