"""Orchestrators as real processes, to be killed and started again, from a server that forks.

The server (`python -m tests.support.orchestrator_process`) imports everything once and forks a
child for each start: a start then costs a tenth of a second instead of two. A child runs
`orchestrator.serve` as `python -m orchestrator` does, on real sockets and real stores, with tools
that write what they do into a file, so that executions can be counted across processes.
"""

import asyncio
import contextlib
import gc
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from tests.support.hands import read_events

SERVER = ("-m", "tests.support.orchestrator_process")
START_TIMEOUT_S = 60


@dataclass
class Running:
    """One orchestrator process, and a client that talks to it."""

    pid: int
    url: str
    client: httpx2.AsyncClient
    ended: asyncio.Future[int]
    stderr: Path

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        assert await self.gone() == -signal.SIGKILL

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    async def gone(self) -> int:
        """Wait for its end; the exit code, or minus the signal that ended it."""
        code = await asyncio.wait_for(asyncio.shield(self.ended), START_TIMEOUT_S)
        await self.client.aclose()
        return code

    async def get(self, path: str) -> Any:
        answer = await self.client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, path: str, **body: Any) -> Any:
        answer = await self.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def start_run(self, message: str, **more: Any) -> tuple[str, str]:
        """Ask, read the first event and leave; the run's id and its thread's."""
        body = {"message": message, "stream": True, **more}
        async with self.client.stream("POST", "/chat", json=body) as answer:
            assert answer.status_code == 200
            first = await anext(read_events(answer))
        return first["data"]["run_id"], first["data"]["thread_id"]

    async def follow(self, run_id: str, after: int = 0) -> list[dict[str, Any]]:
        path = f"/runs/{run_id}/events?after={after}"
        async with self.client.stream("GET", path) as answer:
            assert answer.status_code == 200
            return [event async for event in read_events(answer)]

    async def settled(self, run_id: str) -> dict[str, Any]:
        """The run's response, once it rests or has ended."""
        await self.follow(run_id)
        run = await self.get(f"/runs/{run_id}")
        assert run["status"] not in ("queued", "running"), run
        return dict(run["response"])


@dataclass
class Forks:
    """The server's side that tests use."""

    process: asyncio.subprocess.Process
    folder: Path
    database_url: str | None = None
    _ready: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)
    _ended: dict[int, asyncio.Future[int]] = field(default_factory=dict)
    _number: int = 0

    async def start(self, state: Path, engine_url: str, **options: Any) -> Running:
        """Start an orchestrator. `options`: `settings`, and `die_at`, the number of the write
        before which it kills itself (after which, if negative). Its stores are SQLite files in
        `state`, or a PostgreSQL database if `database_url` is set."""
        self._number += 1
        number, loop = self._number, asyncio.get_running_loop()
        stderr = self.folder / f"stderr-{number}"
        ready = self._ready[number] = loop.create_future()
        ended = self._ended[number] = loop.create_future()
        order = {
            "number": number,
            "state": str(state),
            "engine": engine_url,
            "stderr": str(stderr),
            "database_url": self.database_url,
            **options,
        }
        assert self.process.stdin
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        await asyncio.wait({ready, ended}, timeout=START_TIMEOUT_S, return_when="FIRST_COMPLETED")
        assert ready.done(), f"it did not start: {stderr.read_text()}"
        said = ready.result()
        client = httpx2.AsyncClient(base_url=said["url"], timeout=30)
        return Running(said["pid"], said["url"], client, ended, stderr)

    async def listen(self) -> None:
        assert self.process.stdout
        while line := await self.process.stdout.readline():
            said = json.loads(line)
            number = said["number"]
            if "exit" in said:
                self._ended.pop(number).set_result(said["exit"])
            else:
                self._ready.pop(number).set_result(said)


@asynccontextmanager
async def forks(folder: Path) -> AsyncIterator[Forks]:
    """The fork server; leaving it kills whatever it started."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *SERVER,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    server = Forks(process, folder)
    listening = asyncio.create_task(server.listen())
    try:
        yield server
    finally:
        assert process.stdin
        process.stdin.close()
        await process.wait()
        await listening


def effects(state: Path) -> list[str]:
    """What the tools have done, in order: one line each."""
    path = state / "effects"
    return path.read_text().splitlines() if path.exists() else []


# What follows runs in the server and in its children.


def _serve() -> None:
    import orchestrator.serve

    assert orchestrator.serve
    gc.freeze()
    children: dict[int, int] = {}
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    buffer = b""
    import select

    while True:
        readable, _, _ = select.select([0, reader], [], [])
        if reader in readable:
            os.read(reader, 512)
            _reap(children)
        if 0 not in readable:
            continue
        data = os.read(0, 65_536)
        if not data:
            break
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            _fork(json.loads(line), children)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _reap(children: dict[int, int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        _say({"number": children.pop(pid), "exit": os.waitstatus_to_exitcode(status)})


def _say(message: dict[str, Any]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


def _fork(order: dict[str, Any], children: dict[int, int]) -> None:
    pid = os.fork()
    if pid:
        children[pid] = order["number"]
        return
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(os.open(order["stderr"], os.O_WRONLY | os.O_CREAT, 0o600), 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        code = _child(order)
    except Exception:  # boundary: whatever it was belongs on the child's stderr
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def _child(order: dict[str, Any]) -> int:
    """As `orchestrator.__main__.main`, with an engine and tools of the test's."""
    from contracts.errors import VarietError
    from contracts.settings import Settings
    from orchestrator.agent.model import Engine
    from orchestrator.assembly import Orchestrator
    from orchestrator.serve import serve
    from tests.support.no_index import NoIndex

    state = Path(order["state"])
    if limit := order.get("file_size_limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    settings = Settings(
        _env_file=None,
        state_dir=state,
        port=0,
        openai_compat_url=order["engine"],
        database_url=order["database_url"],
        **order.get("settings", {}),
    )
    logging.basicConfig(level="WARNING", stream=sys.stderr)
    engine = Engine(order["engine"], "", "scripted", 8_192)
    tools = _tools(state)
    whole = Orchestrator(settings, engine, lambda *_: {"effects": tools}, NoIndex())

    def announce(url: str, _model: str, _withheld: list[str]) -> None:
        if (at := order.get("die_at")) is not None:
            _die_at(at, whole)
        _say({"number": order["number"], "url": url, "pid": os.getpid()})

    try:
        asyncio.run(serve(whole, announce))
    except VarietError as error:
        print(f"variet: {error}", file=sys.stderr)
        return 1
    return 0


def _tools(state: Path) -> Any:
    from mcp.server import MCPServer
    from mcp.types import ToolAnnotations
    from pydantic import BaseModel

    class Done(BaseModel):
        done: str

    server = MCPServer("effects", log_level="ERROR")

    def note(line: str) -> None:
        # One write on an O_APPEND file: there whole or not at all, also after a SIGKILL.
        descriptor = os.open(state / "effects", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, line.encode() + b"\n")
        os.close(descriptor)

    async def act(text: str) -> Done:
        """Changes something."""
        note(text)
        return Done(done=text)

    async def act_and_hang(text: str) -> Done:
        """Changes something, says so through the FIFO `started`, and never comes back."""
        note(text)
        with (state / "started").open("w") as fifo:
            fifo.write("started\n")
        await asyncio.get_running_loop().create_future()
        return Done(done=text)

    async def peek(text: str) -> Done:
        """Reads something."""
        note(f"peek {text}")
        return Done(done=text)

    for tool in (act, act_and_hang):
        server.tool(annotations=ToolAnnotations(destructive_hint=True))(tool)
    server.tool(annotations=ToolAnnotations(read_only_hint=True))(peek)
    return server


WRITES = {
    "store": ("create_run", "save_run", "settle_run", "resume_run", "start_run", "append_events"),
    "journal": ("propose", "decide", "begin", "finish"),
}


def _die_at(number: int, whole: Any) -> None:
    """Kill this process before the `number`-th durable write from now on; after it, if negative."""
    stores = {"store": whole.parts.store, "journal": whole.parts.journal}
    count = 0

    def deadly(original: Any) -> Any:
        async def write(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            mine = count
            if mine == number:
                os.kill(os.getpid(), signal.SIGKILL)
            result = await original(*arguments, **options)
            if mine == -number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return write

    for kind, names in WRITES.items():
        for name in names:
            setattr(stores[kind], name, deadly(getattr(stores[kind], name)))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        _serve()
