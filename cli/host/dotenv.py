"""The file of settings, `.env`: read and written so that Docker Compose and our own processes take
the same values from it. Lines that are not changed stay as they are, comments and all."""

import os
import re
import tempfile
from collections.abc import Container, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import Binding, parse_stream

from contracts.errors import SettingsError
from contracts.settings_reading import unreadable

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
PLAIN = re.compile(r"[A-Za-z0-9_./:@,+=%-]*")
# Within quotes the two readers part ways at these: an escape, an expansion, the end of the line.
UNSAFE = ("${", "\n", "\r", "\0")


@dataclass(frozen=True)
class Section:
    """Lines that belong together under a comment. A value of None takes the line away."""

    title: str
    values: Mapping[str, str | None]


class EnvFile:
    """One file's text. A name that stands on several lines has the value of the last."""

    def __init__(self, text: str = "") -> None:
        self._lines = list(parse_stream(StringIO(text)))

    @classmethod
    def read(cls, path: Path) -> "EnvFile":
        """The file at `path`, empty where there is none. Raises SettingsError that names it."""
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return cls()
        except (OSError, UnicodeDecodeError) as error:
            raise unreadable(path, error) from error
        read = cls(text)
        for line in read._lines:
            if line.error or not NAME.fullmatch(line.key or "A"):
                raise SettingsError(
                    "bad_env_file",
                    f"{path}, line {line.original.line}: this is no NAME=value.",
                    "Correct that line.",
                )
        return read

    @property
    def text(self) -> str:
        return "".join(line.original.string for line in self._lines)

    @property
    def values(self) -> dict[str, str]:
        return {line.key: line.value or "" for line in self._lines if line.key}

    @property
    def resolved(self) -> dict[str, str]:
        """The values as our processes read them: `${NAME}` stands for another one's value."""
        given = dotenv_values(stream=StringIO(self.text))
        return {name: value or "" for name, value in given.items()}

    def with_sections(self, sections: tuple[Section, ...]) -> "EnvFile":
        """This file with those values. A line is written anew only where its value differs; a new
        one comes after those of its section. Raises SettingsError for a value that no line can
        hold."""
        changed = EnvFile(self.text)
        for section in sections:
            changed._take(section)
        return changed

    def write(self, path: Path) -> None:
        """Put the file in place at once or not at all, readable by its owner only. Raises
        SettingsError that names it."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._replace_file(path)
        except OSError as error:
            raise SettingsError(
                "bad_env_file",
                f"{path} cannot be written: {error.strerror or error}.",
                "Correct its owner or its folder's, or name another file.",
            ) from error

    def _replace_file(self, path: Path) -> None:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(self.text)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:  # boundary: the half-written file goes, whatever stopped it
            Path(name).unlink(missing_ok=True)
            raise

    def _take(self, section: Section) -> None:
        here = self.values
        for name, value in section.values.items():
            if value is None:
                while name in self.values:
                    self._replace({name}, "")
            elif name in here and here[name] != value:
                self._replace({name}, f"{name}={quoted(name, value)}\n")
        new = {n: v for n, v in section.values.items() if v is not None and n not in here}
        if not new:
            return
        at = self._last(section.values.keys())
        added = [_line(f"{name}={quoted(name, value)}\n") for name, value in new.items()]
        if at is None:
            title = f"{self._gap()}# {section.title}\n"
            self._lines += [*parse_stream(StringIO(title)), *added]
        else:
            self._end_line(at)
            self._lines[at + 1 : at + 1] = added

    def _replace(self, names: Container[str], text: str) -> None:
        """The parser counts blank lines to the name that follows: they stay."""
        at = self._last(names)
        if at is None:
            return
        old = self._lines[at].original.string
        blank = old[: len(old) - len(old.lstrip())]
        self._lines[at : at + 1] = parse_stream(StringIO(blank + text))

    def _last(self, names: Container[str]) -> int | None:
        found = [i for i, line in enumerate(self._lines) if line.key and line.key in names]
        return found[-1] if found else None

    def _gap(self) -> str:
        if not self._lines:
            return ""
        self._end_line(len(self._lines) - 1)
        return "\n"

    def _end_line(self, at: int) -> None:
        """The last line of a file may lack its end."""
        text = self._lines[at].original.string
        if not text.endswith("\n"):
            self._lines[at] = next(parse_stream(StringIO(f"{text}\n")))


def quoted(name: str, value: str) -> str:
    """`value` as it has to stand behind `NAME=`. Compose expands `$` unless it is within single
    quotes, python-dotenv expands `${` even there, and each undoes other escapes: what both would
    not read alike is refused."""
    if PLAIN.fullmatch(value):
        return value
    if not any(part in value for part in UNSAFE):
        if "'" not in value and "\\" not in value:
            return f"'{value}'"
        if not any(part in value for part in '"\\$'):
            return f'"{value}"'
    raise SettingsError(
        "bad_value",
        f"{name}: its value holds characters that a file of settings cannot hold.",
        "Choose another one, without backslashes, line ends, '${', or several kinds of quotes.",
    )


def _line(text: str) -> Binding:
    return next(parse_stream(StringIO(text)))
