"""Processes by their number, children or not: whether it is still the same one, and its end."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.2
PROC = Path("/proc")
# Until they are reaped: a child that is forgotten stays as a zombie.
_CHILDREN: set[int] = set()
_CODES: dict[int, int] = {}


@dataclass(frozen=True, slots=True)
class Process:
    """A process and the moment of its start: a number alone may be another process's by now."""

    pid: int
    started: str

    @property
    def alive(self) -> bool:
        return _is_child(self.pid) or start_of(self.pid) == self.started

    def signal(self, number: signal.Signals) -> None:
        """To it and to whatever it has started; to it alone, where it was itself started so."""
        if self.alive:
            with suppress(ProcessLookupError, PermissionError):
                try:
                    os.killpg(self.pid, number)
                except ProcessLookupError:
                    os.kill(self.pid, number)

    async def gone(self) -> int | None:
        """Returns when it has ended: its exit code, below 0 a signal; None: not ours to know."""
        descriptor = _descriptor(self)
        if descriptor is None:
            while self.alive:  # noqa: ASYNC110  (nothing tells of the end of another's child)
                await asyncio.sleep(POLL_S)
        else:
            await _readable(descriptor)
        _is_child(self.pid)
        return _CODES.get(self.pid)


def spawn(words: Sequence[str], environment: Mapping[str, str], log: int) -> Process:
    """A child in a session of its own, whose outputs go to the file `log`: neither Ctrl-C in our
    terminal nor our own end is its end. Raises OSError."""
    # Not subprocess: its objects complain of each child that outlives them.
    pid = os.posix_spawnp(
        words[0],
        list(words),
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
        ],
        setsid=True,
        # Python ignores them, and children would inherit that.
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
    )
    _CHILDREN.add(pid)
    _CODES.pop(pid, None)
    # One that has ended already has no start; its exit code is kept.
    return Process(pid, start_of(pid) or "ended")


def start_of(pid: int) -> str | None:
    """When a process started, in the system's own words; None: there is none, or it has ended."""
    if not sys.platform.startswith("linux"):
        return _start_by_ps(pid)
    try:
        # The name may hold spaces and brackets; what follows it does not.
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, started = fields[0], fields[19]
    return None if state in "ZX" else started


def marked(mark: str) -> list[Process]:
    """Processes that were started with `mark` ("NAME=VALUE") in their environment. Empty where the
    system does not tell."""
    found = []
    for folder in PROC.glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                pid = int(folder.name)
                if started := start_of(pid):
                    found.append(Process(pid, started))
    return found


def session_of(pid: int) -> int | None:
    """The number of the process that began its session; None: there is no such process."""
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _start_by_ps(pid: int) -> str | None:
    done = subprocess.run(
        ("ps", "-o", "stat=,lstart=", "-p", str(pid)), capture_output=True, text=True, check=False
    )
    state, _, started = done.stdout.strip().partition(" ")
    return None if not started or state.startswith("Z") else started.strip()


def _descriptor(process: Process) -> int | None:
    """What becomes readable at its end; None where there is no such thing."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return None
    # The number may have become another's before the descriptor was there.
    if process.alive:
        return descriptor
    os.close(descriptor)
    return None


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not ended.done():
            ended.set_result(None)

    loop.add_reader(descriptor, tell)
    try:
        await ended
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _is_child(pid: int) -> bool:
    """Whether it is a child of ours that runs; one that has ended is reaped."""
    if pid not in _CHILDREN:
        return False
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        ended, status = pid, 0
    if not ended:
        return True
    _CHILDREN.discard(pid)
    _CODES[pid] = os.waitstatus_to_exitcode(status)
    return False
