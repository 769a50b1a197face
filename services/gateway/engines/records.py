"""What an engine's process leaves in the gateway's folder: a record of it, and its log."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from services.gateway.engines.pids import Process

LOOPBACK = "127.0.0.1"
TAIL_BYTES = 65_536
LOG_BYTES = 32 * 2**20
BLOCK_BYTES = 65_536
FOLLOW_S = 0.25


@dataclass(frozen=True, slots=True)
class Record:
    """A process that was started, as the next gateway finds it."""

    name: str
    pid: int
    started: str
    port: int
    fingerprint: str
    context: int

    @property
    def process(self) -> Process:
        return Process(self.pid, self.started)

    @property
    def base_url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"


class Files:
    """An engine's record and log in the gateway's folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.log = folder / f"{name}.log"
        self.record = folder / f"{name}.json"

    def new_log(self) -> IO[bytes]:
        self.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.log.unlink(missing_ok=True)
        return open(self.log, "ab", opener=_private)

    def tail(self) -> list[str]:
        return self._read(-TAIL_BYTES)

    def head(self) -> list[str]:
        """Its start, where the load is told of."""
        return self._read(0)

    def _read(self, start: int) -> list[str]:
        with suppress(OSError), self.log.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size + start) if start else 0)
            return file.read(TAIL_BYTES).decode("utf-8", "replace").splitlines()
        return []

    async def text(self, follow: bool) -> AsyncIterator[bytes]:
        """The log in whole lines, many at a time; nothing, if it was never started. Followed, it
        goes on with the next start's."""
        file: IO[bytes] | None = None
        part = b""
        try:
            while True:
                file = file or self._opened()
                if file is not None and (block := file.read(BLOCK_BYTES)):
                    lines, end, part = (part + block).rpartition(b"\n")
                    if end:
                        yield lines + end
                    # A long one must not hold up all that goes on beside it.
                    await asyncio.sleep(0)
                    continue
                if not follow:
                    break
                if file is not None and self._replaced(file):
                    if part:
                        yield part + b"\n"
                    file.close()
                    file, part = None, b""
                    continue
                await asyncio.sleep(FOLLOW_S)
            if part:
                yield part
        finally:
            if file is not None:
                file.close()

    def _opened(self) -> IO[bytes] | None:
        try:
            return self.log.open("rb")
        except FileNotFoundError:
            return None

    def _replaced(self, file: IO[bytes]) -> bool:
        """Whether it was emptied, or the engine started anew, since it was opened."""
        here = os.fstat(file.fileno())
        with suppress(FileNotFoundError):
            return file.tell() > here.st_size or self.log.stat().st_ino != here.st_ino
        return False

    def shorten(self) -> None:
        """The engine appends, so that it goes on at the start of the emptied file."""
        with suppress(OSError):
            if self.log.stat().st_size > LOG_BYTES:
                os.truncate(self.log, 0)

    def write(self, record: Record) -> None:
        part = self.record.with_suffix(".part")
        part.write_text(json.dumps(asdict(record)))
        part.replace(self.record)

    def read(self) -> Record | None:
        return read_record(self.record)

    def forget(self, record: Record) -> None:
        """Unless it is another's by now."""
        if self.read() == record:
            self.record.unlink(missing_ok=True)


def read_record(path: Path) -> Record | None:
    """None: there is none, or what is there is none."""
    try:
        return Record(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
