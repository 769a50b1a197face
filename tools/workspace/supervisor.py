"""Runs one command under limits and leaves nothing of it running. A program of its own: it is
started as `python supervisor.py SPECIFICATION` and imports nothing but the standard library.

The specification is JSON: `command`, `folder`, `environment`, `wall_s`, `cpu_s`, `memory_bytes`,
`file_bytes`, `processes`, `output_bytes`, `scratch`. The outcome goes to standard output as one
JSON object: `code` (negative: the signal), `timed_out`, `stopped`, `killed` (processes that were
left over), `ms`, `output`.

The command gets a session of its own, so that one signal reaches its whole process group. Where the
system has it, this process also becomes the parent of orphans (PR_SET_CHILD_SUBREAPER), so that
what has left the group, a double-forked daemon say, is found and killed as well. It stops when its
standard input closes: whoever started it need only go away, even by kill -9; then it removes the
folder `scratch` as well. This is no sandbox: a command that means harm can still read files, use
the network, or kill this process.
"""

import ctypes
import json
import os
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
HEAD_SHARE = 4  # a quarter of the output kept is its beginning
POLL_S = 0.05
PIPE_BYTES = 65536


class Output:
    """The beginning and the end of what a command prints, in bounded memory."""

    def __init__(self, limit: int) -> None:
        self.head_limit = limit // HEAD_SHARE
        self.tail_limit = limit - self.head_limit
        self.head = bytearray()
        self.tail = bytearray()
        self.dropped = 0

    def add(self, data: bytes) -> None:
        room = self.head_limit - len(self.head)
        self.head += data[:room]
        self.tail += data[room:] if room > 0 else data
        surplus = len(self.tail) - self.tail_limit
        if surplus > 0:
            del self.tail[:surplus]
            self.dropped += surplus

    def text(self) -> str:
        gap = b"\n[... %d bytes left out ...]\n" % self.dropped if self.dropped else b""
        return (bytes(self.head) + gap + bytes(self.tail)).decode("utf-8", "replace")


def main() -> None:
    spec = json.loads(sys.argv[1])
    adopt_orphans()
    started = time.monotonic()
    process = start(spec)
    output = Output(spec["output_bytes"])
    ending = watch(process, output, started + spec["wall_s"])
    killed = end_all(process)
    drain(process, output)
    if ending == "stopped":
        shutil.rmtree(spec["scratch"], ignore_errors=True)
    outcome = {
        "code": process.returncode,
        "timed_out": ending == "timed_out",
        "stopped": ending == "stopped",
        "killed": killed,
        "ms": round((time.monotonic() - started) * 1000),
        "output": output.text(),
    }
    sys.stdout.write(json.dumps(outcome))


def start(spec: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Start the command in a session of its own, limited before its first instruction."""
    processes = count_processes() + spec["processes"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (spec["cpu_s"], spec["cpu_s"] + 1))
        resource.setrlimit(resource.RLIMIT_AS, (spec["memory_bytes"],) * 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (spec["file_bytes"],) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if sys.platform == "linux":
            resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
            control(PR_SET_PDEATHSIG, signal.SIGKILL)

    return subprocess.Popen(
        spec["command"],
        cwd=spec["folder"],
        env=spec["environment"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=limit,  # safe here: this process has one thread
    )


def watch(process: subprocess.Popen[bytes], output: Output, deadline: float) -> str:
    """Collect output until the command ends, its time is up, or standard input closes."""
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    os.set_blocking(pipe, False)
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        while process.poll() is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return "timed_out"
            for key, _ in selector.select(min(left, POLL_S)):
                if key.fd == sys.stdin.fileno():
                    if not os.read(sys.stdin.fileno(), 1):
                        return "stopped"
                elif not read_some(pipe, output):
                    selector.unregister(pipe)
    return "ended"


def read_some(fd: int, output: Output) -> bool:
    """Read what is there. False: the other side has closed."""
    try:
        data = os.read(fd, PIPE_BYTES)
    except BlockingIOError:
        return True
    output.add(data)
    return bool(data)


def drain(process: subprocess.Popen[bytes], output: Output) -> None:
    """Read what the pipe still holds, without waiting for a writer that was not found."""
    assert process.stdout is not None
    while True:
        try:
            data = os.read(process.stdout.fileno(), PIPE_BYTES)
        except BlockingIOError:
            return
        if not data:
            return
        output.add(data)


def end_all(process: subprocess.Popen[bytes]) -> int:
    """Kill the group and every descendant; returns how many outlived the command itself."""
    ended = process.poll() is not None
    left_over = [pid for pid in descendants(os.getpid()) if pid != process.pid]
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for _ in range(100):
        alive = descendants(os.getpid())
        if not alive:
            break
        for pid in alive:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        reap()
    return len(left_over) if ended else 0


def reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    time.sleep(0.01)


def descendants(ancestor: int) -> list[int]:
    """The living processes below `ancestor`, and those of its own that wait to be reaped."""
    parents: dict[int, int] = {}
    for folder in process_folders():
        with suppress(OSError):
            status = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            if status[0] != "Z" or int(status[1]) == ancestor:
                parents[int(folder.name)] = int(status[1])
    found: list[int] = []
    wave = {ancestor}
    while wave:
        wave = {pid for pid, parent in parents.items() if parent in wave}
        found += wave
    return found


def count_processes() -> int:
    """Processes and threads of this user: what RLIMIT_NPROC counts."""
    count = 0
    for folder in process_folders():
        with suppress(OSError):
            if folder.stat().st_uid == os.getuid():
                count += len(list((folder / "task").iterdir()))
    return count


def process_folders() -> list[Path]:
    """One folder per process; none where the system has no /proc."""
    return [folder for folder in Path("/proc").glob("[0-9]*") if folder.name.isdigit()]


def adopt_orphans() -> None:
    if sys.platform == "linux":
        control(PR_SET_CHILD_SUBREAPER, 1)


def control(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    main()
