"""An engine in a process of its own, kept alive: started, watched, restarted, stopped."""

import asyncio
import json
import os
import secrets
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from contracts.errors import EngineError, EngineTimeout, VarietError
from services.engine.options import EngineOptions

REPOSITORY = Path(__file__).resolve().parents[2]
LOG_LINES = 50
LOG_LINE_BYTES = 2**20
STOP_GRACE_S = 5.0
# What the child needs of the environment; the parent's keys and tokens are not among it.
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT")
OUT_OF_MEMORY = ("failed to allocate", "unable to allocate", "bad_alloc", "not enough memory")

Status = Literal["starting", "ready", "restarting", "stopped"]


@dataclass(frozen=True)
class Backoff:
    """Seconds before the n-th restart in a row: `first * 2**n`, at most `most`. An engine that
    stayed up for `settled` seconds starts over at `first`."""

    first: float = 0.2
    most: float = 30.0
    settled: float = 60.0

    def delay(self, failures: int) -> float:
        return min(self.first * 2.0 ** min(failures, 30), self.most)


@dataclass(frozen=True)
class EngineState:
    """`detail` says what happened last, in one sentence."""

    status: Status
    restarts: int
    detail: str


class EngineProcess:
    """One engine. After `start`, `base_url` and `api_key` stay valid across restarts.

    `on_log` gets each line of llama.cpp's log, `on_state` each change of `state`.
    """

    def __init__(
        self,
        options: EngineOptions,
        *,
        on_log: Callable[[str], None] = lambda _: None,
        on_state: Callable[[EngineState], None] = lambda _: None,
        backoff: Backoff | None = None,
        ready_timeout_s: float = 300.0,
    ) -> None:
        self.options = options
        self.api_key = secrets.token_urlsafe(24)
        self.base_url = ""
        self.context = options.context
        self.state = EngineState("stopped", 0, "Not started.")
        self._on_log = on_log
        self._on_state = on_state
        self._backoff = backoff or Backoff()
        self._ready_timeout_s = ready_timeout_s
        self._port = options.port
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start the engine and return when it answers. Raises EngineError with the reason if it
        cannot start, EngineTimeout if it is not ready in time; then nothing is left running."""
        self._change("starting", f"Loading {self.options.model.name}.")
        try:
            await self._spawn()
        except VarietError as error:
            self._change("stopped", error.message)
            raise
        self._watching = asyncio.create_task(self._watch())

    async def wait_ready(self, timeout_s: float) -> None:
        """Return when the engine answers; Raises EngineTimeout after `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()
        except TimeoutError:
            raise EngineTimeout(
                "engine_not_ready",
                f"The engine is not ready after {timeout_s:g} s. {self.state.detail}",
                "Wait, or look at its log.",
            ) from None

    async def stop(self) -> None:
        """End the engine; it gets five seconds. Safe to call at any time, more than once."""
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
            self._watching = None
        await self._end()
        self._change("stopped", "Stopped.")

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            assert self._process is not None
            since = loop.time()
            code = await self._process.wait()
            await self._end()
            if loop.time() - since > self._backoff.settled:
                failures = 0
            self._change("restarting", f"The engine ended {_how(code)}.", one_more=True)
            failures = await self._respawn(failures)

    async def _respawn(self, failures: int) -> int:
        """Start again until it works; returns how many starts in a row there have been."""
        while True:
            await asyncio.sleep(self._backoff.delay(failures))
            failures += 1
            try:
                await self._spawn()
            except VarietError as error:
                self._change("restarting", error.message, one_more=True)
            else:
                return failures

    async def _spawn(self) -> None:
        self._log.clear()
        self._process = await self._launch()
        self._reading = asyncio.create_task(self._read_log(self._process))
        try:
            report = await self._report(self._process)
        except BaseException:
            # boundary: also cancelled, the start must leave no process behind
            await self._end()
            raise
        self.base_url = report["url"]
        self.context = report["context"]
        self._port = int(self.base_url.removesuffix("/v1").rsplit(":", 1)[1])
        self._change("ready", f"{self.options.alias} answers at {self.base_url}.")

    async def _launch(self) -> asyncio.subprocess.Process:
        environment = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
        try:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "services.engine",
                *self.options.arguments(self._port),
                "--exit-with-parent",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=LOG_LINE_BYTES,
                env={**environment, "ENGINE_API_KEY": self.api_key},
                cwd=REPOSITORY,
                # A Ctrl-C in the terminal goes to us alone, so that runs can be drained first.
                start_new_session=True,
            )
        except OSError as error:
            raise EngineError(
                "engine_start",
                f"The engine's process cannot be started: {error.strerror}.",
                "Free some memory, or end other processes.",
            ) from error

    async def _report(self, process: asyncio.subprocess.Process) -> dict[str, Any]:
        assert process.stdout is not None
        try:
            async with asyncio.timeout(self._ready_timeout_s):
                line = await process.stdout.readline()
        except TimeoutError:
            raise EngineTimeout(
                "engine_start_timeout",
                f"{self.options.model} was not loaded within {self._ready_timeout_s:g} s.",
                "Choose a smaller model, or look at the engine's log.",
            ) from None
        report: dict[str, Any] = json.loads(line) if line else {"ready": False}
        if report["ready"]:
            return report
        code = await process.wait()
        if self._reading is not None:
            await self._reading
        raise self._start_error(report, code)

    def _start_error(self, report: dict[str, Any], code: int) -> EngineError:
        said = [line for line in self._log if " E " in line or "rror" in line]
        if any(sign in line for line in self._log for sign in OUT_OF_MEMORY) or code == -9:
            return EngineError(
                "engine_out_of_memory",
                f"{self.options.model.name} does not fit into memory"
                f" (context {self.options.context}, {self.options.parallel} at once).",
                "Set a smaller MAX_MODEL_LEN or ENGINE_PARALLEL, or choose a smaller model.",
            )
        if error := report.get("error"):
            if said and error["code"] == "engine_start":
                error["message"] += f" It said: {said[0].strip()}"
            return EngineError(**error)
        return EngineError(
            "engine_start",
            f"The engine ended {_how(code)} before it answered. {' '.join(said[-3:])}".strip(),
            "Look at its log; variet doctor checks the installation.",
        )

    async def _read_log(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while line := await _line(process.stderr):
            text = line.decode("utf-8", "replace").rstrip()
            self._log.append(text)
            self._on_log(text)

    async def _end(self) -> None:
        """Make sure that the process is gone and all of its pipes are read."""
        self._ready.clear()
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            await _terminate(process)
        if process.stdin is not None:
            process.stdin.close()
        if self._reading is not None:
            await self._reading
            self._reading = None

    def _change(self, status: Status, detail: str, one_more: bool = False) -> None:
        self.state = EngineState(status, self.state.restarts + one_more, detail)
        if status == "ready":
            self._ready.set()
        self._on_state(self.state)


async def _line(log: asyncio.StreamReader) -> bytes:
    """The next line; of one longer than the reader's limit, a note in its place."""
    try:
        return await log.readline()
    except ValueError:
        # llama.cpp prints a refused grammar, which is as long as the request made it.
        return b"[a line of more than 1 MiB was left out]\n"


async def _terminate(process: asyncio.subprocess.Process) -> None:
    # It may end by itself between the look and the signal.
    with suppress(ProcessLookupError):
        process.terminate()
        try:
            async with asyncio.timeout(STOP_GRACE_S):
                await process.wait()
        except TimeoutError:
            process.kill()
    await process.wait()


def _how(code: int) -> str:
    return f"by signal {-code}" if code < 0 else f"with exit code {code}"
