"""The embedded stack: engine and orchestrator, each in a process of its own on loopback.

Both end with this process, however it ends: each watches a pipe that this one holds. The
orchestrator brings the index process along, in the same way.
"""

import asyncio
import json
import os
import sys
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.errors import StoreError, Unavailable
from contracts.settings import REPOSITORY, Settings
from models.choice import ModelChoice, choose_model
from services.engine.options import EngineOptions
from services.engine.process import EngineProcess

READY_TIMEOUT_S = 180.0
LOG_BYTES = 5_000_000


@dataclass(frozen=True)
class Running:
    """A stack that serves. `key` is None when none is needed; `seconds` is the start-up time."""

    url: str
    key: str | None
    model: ModelChoice
    withheld: list[str]
    seconds: float


class Stack:
    """Starts and stops the parts, all in one event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.log_file = settings.state_dir / "logs" / "orchestrator.log"
        self._engine_log = settings.state_dir / "logs" / "engine.log"
        self._parts = AsyncExitStack()
        self._orchestrator: asyncio.subprocess.Process | None = None

    async def start(self) -> Running:
        """Return when the orchestrator is ready. However it goes, `stop` has to be called."""
        began = time.monotonic()
        self._make_folders()
        choice = choose_model(self.settings)
        engine = await self._start_engine(choice)
        ready = await self._start_orchestrator(engine)
        key = self.settings.variet_api_key
        return Running(
            url=ready["url"],
            key=key.get_secret_value() if key else None,
            model=choice,
            withheld=ready["withheld"],
            seconds=time.monotonic() - began,
        )

    async def wait(self) -> None:
        """Never returns; raises Unavailable when the orchestrator has ended by itself."""
        assert self._orchestrator
        raise self._ended(await self._orchestrator.wait())

    async def stop(self) -> None:
        """Stop the parts, the last one first. Safe to call more than once."""
        await self._parts.aclose()

    def _make_folders(self) -> None:
        try:
            self.log_file.parent.mkdir(parents=True, exist_ok=True)
            for log in (self.log_file, self._engine_log):
                if log.exists() and log.stat().st_size > LOG_BYTES:
                    log.replace(log.with_suffix(".log.1"))
                log.touch()
        except OSError as error:
            raise StoreError(
                "state_dir",
                f"STATE_DIR={self.settings.state_dir} cannot be written: {error.strerror}.",
                "Make it writable, or set STATE_DIR to another folder.",
            ) from error

    async def _start_engine(self, choice: ModelChoice) -> dict[str, str]:
        """What the orchestrator is told of its model: the embedded engine's, or one elsewhere."""
        settings = self.settings
        if choice.gateway and settings.model_id is None:
            # With MODEL_ID all its tiers would be that one model.
            return {}
        if choice.path is None:
            return {"MODEL_ID": choice.id, "MAX_MODEL_LEN": str(choice.context)}
        engine = EngineProcess(
            EngineOptions(
                model=choice.path,
                alias=choice.id,
                context=choice.context,
                threads=settings.engine_threads,
                parallel=settings.engine_parallel,
            ),
            on_log=_appender(self._engine_log, self._parts),
        )
        self._parts.push_async_callback(engine.stop)
        await engine.start()
        return {
            "OPENAI_COMPAT_URL": engine.base_url,
            "OPENAI_COMPAT_KEY": engine.api_key,
            "MODEL_ID": choice.id,
            "MAX_MODEL_LEN": str(engine.context),
        }

    async def _start_orchestrator(self, engine: dict[str, str]) -> dict[str, Any]:
        with self.log_file.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "cli.tether", "orchestrator"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=REPOSITORY,
                env=os.environ | self._environment() | engine,
                # Ctrl-C reaches this process alone, which then stops the parts in order.
                start_new_session=True,
            )
        self._orchestrator = process
        self._parts.push_async_callback(self._stop_orchestrator, process)
        assert process.stdout
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                said = await process.stdout.readline()
        except TimeoutError:
            raise Unavailable(
                "not_ready",
                f"The orchestrator was not ready after {READY_TIMEOUT_S:.0f} s.",
                f"Its log says more: {self.log_file}",
            ) from None
        if not said:
            raise self._ended(await process.wait())
        ready: dict[str, Any] = json.loads(said)
        return ready

    def _environment(self) -> dict[str, str]:
        settings = self.settings
        return {
            "PYTHONPATH": str(REPOSITORY),
            "BIND_ADDR": settings.bind_addr,
            "PORT": str(settings.port),
            "STATE_DIR": str(settings.state_dir.resolve()),
            "WORKSPACE_DIR": str(settings.workspace.resolve()),
            "MAPS_DIR": str(settings.maps.resolve()),
            "LOGS_DIR": str(settings.logs.resolve()),
        }

    async def _stop_orchestrator(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is not None:
            return
        process.terminate()
        try:
            # It lets streams end, then drains its runs, then stops its tools and the index.
            async with asyncio.timeout(2 * self.settings.drain_timeout_s + 10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def _ended(self, code: int) -> Unavailable:
        return Unavailable(
            "orchestrator_ended",
            f"The orchestrator ended by itself: {_last_line(self.log_file) or code}",
            f"Its log says more: {self.log_file}",
        )


def _appender(path: Path, parts: AsyncExitStack) -> Any:
    log = path.open("a", encoding="utf-8", buffering=1)
    parts.callback(log.close)

    def append(text: str) -> None:
        log.write(f"{text}\n")

    return append


def _last_line(path: Path) -> str:
    with suppress(OSError, IndexError):
        return path.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
    return ""
