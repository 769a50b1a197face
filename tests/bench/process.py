"""Child processes that say on standard output when they are ready, and what they cost."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
STOP_S = 20
# An environment may keep Python from storing compiled modules; a start would then compile them.
UNWANTED = ("PYTHONDONTWRITEBYTECODE",)


@dataclass(frozen=True, slots=True)
class Child:
    """A running process. `start_s` is the time from its creation to its line of readiness."""

    url: str
    pid: int
    start_s: float

    def cpu_s(self) -> float | None:
        """Seconds of processor time so far, user and system, of all threads; Linux only."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text("utf-8")
        except OSError:
            return None
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mb(self) -> float | None:
        """Resident memory now; Linux only."""
        return resident_mb(self.pid)

    def children(self) -> list[int]:
        """Process ids of its direct children; Linux only."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text("utf-8").rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == self.pid:
                found.append(int(stat.parent.name))
        return found


def resident_mb(pid: int) -> float | None:
    try:
        status = Path(f"/proc/{pid}/status").read_text("utf-8")
    except OSError:
        return None
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def loopback_listener(port: int = 0) -> socket.socket:
    """A listening socket; without a port, on a free one. It names its protocol, or asyncio would
    leave TCP_NODELAY off, and every second small write would wait 40 ms for a delayed
    acknowledgement."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(256)
    return listener


@contextmanager
def child(
    module: str, *arguments: str, folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Child]:
    """Run `python -m module` in a folder; wait for a line of JSON with `url`; end it by SIGTERM."""
    command: Sequence[str] = [sys.executable, "-m", module, *arguments]
    kept = {key: value for key, value in os.environ.items() if key not in UNWANTED}
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=folder,  # where no .env lies
        env=kept | {"PYTHONPATH": str(REPOSITORY)} | dict(environment or {}),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{module} ended before it was ready")
        yield Child(json.loads(line)["url"], process.pid, time.perf_counter() - started)
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
