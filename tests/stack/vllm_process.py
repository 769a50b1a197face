"""vLLM on the processor, as a process of this machine.

`python -m tests.stack.vllm_process` installs it ahead, beside other work; a test that needs it
meanwhile waits for that.
"""

import asyncio
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.gateway.engines.commands import Launch
from services.gateway.engines.readiness import End

HOME = Path.home() / ".cache/variet/vllm"
REQUIREMENTS = Path(__file__).with_name("requirements-vllm.lock")
INSTALL_S = 1_500
STOP_S = 60
TAIL = 60


class NotInstalled(Exception):
    """Its packages cannot be had; the text says why."""


def interpreter() -> Path:
    """Python of an environment that has it, made once. torchvision, torchaudio, torchcodec and
    triton, which it asks for, are left out: they want a card, and text needs none of them. Raises
    NotInstalled."""
    HOME.parent.mkdir(parents=True, exist_ok=True)
    with HOME.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _installed()


def _installed() -> Path:
    python, stamp = HOME / "bin/python", HOME / REQUIREMENTS.name
    if stamp.exists() and stamp.read_bytes() == REQUIREMENTS.read_bytes():
        return python
    options = ("--quiet", "--no-deps", "--no-compile", "--require-hashes")
    for command in (
        (sys.executable, "-m", "venv", "--clear", str(HOME)),
        (str(python), "-m", "pip", "install", *options, "-r", str(REQUIREMENTS)),
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S)
        if done.returncode:
            raise NotInstalled(done.stderr.strip()[-500:])
    stamp.write_bytes(REQUIREMENTS.read_bytes())
    return python


@dataclass
class VllmProcess:
    """One that was started. What the gateway's code waits for while it loads."""

    process: "subprocess.Popen[bytes]"
    base_url: str
    key: str
    log: Path

    async def gone(self) -> End:
        # Not in a thread: whoever stops waiting would have to wait for that.
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        descriptor = os.pidfd_open(self.process.pid)
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        return End(f"it ended with {self.process.wait()}")

    async def tail(self) -> Sequence[str]:
        return self.log.read_text("utf-8", "replace").splitlines()[-TAIL:]

    def end(self) -> None:
        """Its workers are processes too; they are of its group."""
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def start(python: Path, launch: Launch, model: Path, folder: Path) -> VllmProcess:
    """With the gateway's own words, but for what is a container's: the address, and the model's
    folder in place of its repository."""
    port = _free_port()
    words = [str(model), *launch.words[1:]]
    for flag, value in (("--host", "127.0.0.1"), ("--port", str(port))):
        words[words.index(flag) + 1] = value
    log = folder / "vllm.log"
    environment = {
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        # --enable-sleep-mode, which opens its routes, needs a card.
        "VLLM_SERVER_DEV_MODE": "1",
        **launch.environment,
    }
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", *words],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    key = launch.environment["VLLM_API_KEY"]
    return VllmProcess(process, f"http://127.0.0.1:{port}", key, log)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


if __name__ == "__main__":
    print(interpreter())
