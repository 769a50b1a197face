"""Tool servers as real processes: ours, and one (`python -m tests.support.tool_process`) whose
calls can be held, counted and let go.

That one says on standard output when a call begins and when it was stopped, and lets what it holds
go when it reads a line. PROBE_DIR is where `change` writes; PROBE_ABOUT is in its descriptions.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp.server import MCPServer
from mcp.types import ToolAnnotations
from pydantic import BaseModel

from contracts.settings import Settings
from orchestrator.agent.tool_transport import Remote
from tests.support.probe_tools import READ, WRITE
from tools.serve import run

TOKEN = "a-token-for-tests-0123456789"
START_S = 60
ROOT = Path(__file__).resolve().parent.parent.parent
PROBE = "tests.support.tool_process"


@dataclass
class ToolProcess:
    """A tool server in a process of its own."""

    process: asyncio.subprocess.Process
    url: str
    errors: Path

    @property
    def port(self) -> int:
        return int(self.url.split(":")[2].split("/")[0])

    def remote(self, **more: Any) -> Remote:
        return Remote(self.url, **({"token": TOKEN} | more))

    async def says(self) -> dict[str, Any]:
        """The next line of its standard output."""
        assert self.process.stdout is not None
        async with asyncio.timeout(START_S):
            return dict(json.loads(await self.process.stdout.readline()))

    def release(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")

    async def ended(self, number: int) -> int:
        """Send a signal, wait for the end; the exit code, or minus the signal that it died of."""
        self.process.send_signal(number)
        async with asyncio.timeout(START_S):
            return await self.process.wait()

    def log(self) -> str:
        return self.errors.read_text("utf-8")


def environment_of(state: Path) -> dict[str, str]:
    """What such a process is started with, besides its port and token; nothing of this one's."""
    state.mkdir(parents=True, exist_ok=True)
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "VARIET_ENV_FILE": str(state / "none.env"),
        "STATE_DIR": str(state / "state"),
        "WORKSPACE_DIR": str(state / "workspace"),
        "PROBE_DIR": str(state),
    }


@asynccontextmanager
async def tool_process(
    state: Path, module: str = PROBE, port: int = 0, token: str = TOKEN, **environment: str
) -> AsyncIterator[ToolProcess]:
    """Start one; kill it at the end if it still runs."""
    own = environment_of(state) | {"TOOL_PORT": str(port), "TOOL_TOKEN": token}
    errors = state / f"{module}.log"
    with errors.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", module, "serve",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log,
            env=own | environment,
        )  # fmt: skip
    running = ToolProcess(process, "", errors)
    try:
        try:
            running.url = (await running.says())["url"]
        except ValueError as error:
            raise AssertionError(running.log()) from error
        yield running
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            await process.wait()
        assert process.stdin is not None
        process.stdin.close()
        # asyncio closes its end of the pipe only when it has read all of it.
        assert process.stdout is not None
        await process.stdout.read()


class Echo(BaseModel):
    text: str


def probe(_: Settings) -> MCPServer:
    """One tool per behaviour that matters between processes."""
    server = MCPServer("probe", log_level="ERROR")
    about = os.environ.get("PROBE_ABOUT", "it")
    folder = Path(os.environ["PROBE_DIR"])
    released = asyncio.Event()

    async def held(name: str) -> None:
        asyncio.get_running_loop().add_reader(0, _let_go, released)
        _say(began=name)
        try:
            await released.wait()
        except asyncio.CancelledError:
            _say(stopped=name)
            raise

    async def look(text: str) -> Echo:
        return Echo(text=text)

    async def hang(text: str) -> Echo:
        await held("hang")
        return Echo(text=text)

    async def change(text: str, hold: bool = False) -> Echo:
        with (folder / "changes").open("a") as changes:
            changes.write(text)
        if hold:
            await held("change")
        return Echo(text=text)

    async def large(letters: int) -> Echo:
        return Echo(text="€" * letters)

    for function, notes in ((look, READ), (hang, READ), (change, WRITE), (large, READ)):
        annotations: ToolAnnotations = notes
        server.tool(annotations=annotations, description=f"Does {about}.")(function)
    return server


def _let_go(released: asyncio.Event) -> None:
    sys.stdin.readline()
    released.set()
    asyncio.get_running_loop().remove_reader(0)


def _say(**what: str) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    sys.exit(run("probe", probe))
