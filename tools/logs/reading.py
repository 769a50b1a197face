"""Reading log files within bounds, newest first, and saying what was not read."""

import os
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import BinaryIO

from tools.files import open_regular
from tools.logs.entries import Entry, read_entries

MAX_BYTES = 64 * 1024 * 1024  # read in one search, of all files together; about four seconds
MAX_SKIPPED_BYTES = 1024 * 1024 * 1024  # passed over in one file to number its last lines
MAX_LINE_BYTES = 16 * 1024
BINARY_PROBE_BYTES = 4096
BLOCK_BYTES = 1024 * 1024


class Reader:
    """Reads the entries of files until the bytes of one search are used up. `searched` names each
    file with what was left out of it."""

    def __init__(self, today: date) -> None:
        self.today = today
        self.left = MAX_BYTES
        self.searched: list[str] = []

    def entries(self, path: Path) -> Iterator[Entry]:
        """The entries of a file: all, or the last ones if it is larger than what is left."""
        with os.fdopen(open_regular(path), "rb") as log:
            size = os.fstat(log.fileno()).st_size
            surplus = max(0, size - self.left)
            note = self._refusal(log, surplus)
            if note:
                self.searched.append(f"{path.name} (not searched: {note})")
                return
            share = f" (only its last {self.left / 2**20:.1f} MiB)" if surplus else ""
            self.searched.append(path.name + share)
            self.left -= size - surplus
            log.seek(0)
            skipped_lines = _skip(log, surplus)
            yield from read_entries(_lines(log), self.today, skipped_lines + 1)

    def _refusal(self, log: BinaryIO, surplus: int) -> str:
        if b"\0" in log.read(BINARY_PROBE_BYTES):
            return "it is not text"
        if surplus > MAX_SKIPPED_BYTES:
            return "it is too large"
        if self.left <= 0:
            return f"newer files hold {MAX_BYTES >> 20} MiB"
        return ""


def newest_first(paths: list[Path]) -> list[Path]:
    """Files by the time of their last change, the latest first."""
    return sorted(paths, key=lambda path: -path.lstat().st_mtime_ns)


def _skip(log: BinaryIO, surplus: int) -> int:
    """Go `surplus` bytes on and to the next line; returns how many lines that passed."""
    if surplus <= 0:
        return 0
    lines = 0
    while surplus > 0:
        block = log.read(min(surplus, BLOCK_BYTES))
        if not block:
            return lines
        lines += block.count(b"\n")
        surplus -= len(block)
    return lines + (1 if log.readline() else 0)


def _lines(log: BinaryIO) -> Iterator[str]:
    """The lines of a file as text, each cut at 16 KiB."""
    while line := log.readline(MAX_LINE_BYTES):
        text = _decoded(line).rstrip("\r\n")
        while line and not line.endswith(b"\n"):
            line = log.readline(MAX_LINE_BYTES)
        yield text


def _decoded(line: bytes) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        cut = error.start > len(line) - 4 and len(line) == MAX_LINE_BYTES
        # Old programs write one byte per letter.
        return line.decode("utf-8" if cut else "cp1252", "replace")
