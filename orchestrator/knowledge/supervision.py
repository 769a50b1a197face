"""Starting the index process, and starting it again when it dies."""

import asyncio
import contextlib
import importlib.util
import logging
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from contracts.errors import SettingsError
from contracts.settings import REPOSITORY
from orchestrator.knowledge.index import IndexClient

_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 30.0
_STABLE = 60.0
_GRACE = 5.0

log = logging.getLogger("variet.index")


def require_qdrant_client() -> None:
    """Raises SettingsError when the package is missing: only the server's lock file has it."""
    if importlib.util.find_spec("qdrant_client") is None:
        raise SettingsError(
            "no_qdrant_client",
            "QDRANT_URL is set, and the package qdrant-client is not installed.",
            "Run `pip install -r requirements-server.lock`, or unset QDRANT_URL.",
        )


class IndexProcess:
    """The index of `folder` in a process of its own, kept running until `stop`.

    Its socket lies in a temporary folder that only this user may enter, because a Unix socket's
    path may have about 100 characters at most. The process ends when this one does, however it
    does: it watches its standard input.
    """

    def __init__(
        self,
        folder: Path,
        embed_url: str | None = None,
        embed_model: str = "all-MiniLM-L6-v2",
        embed_key: str | None = None,
        log_file: Path | None = None,
        qdrant_url: str | None = None,
        qdrant_key: str | None = None,
    ) -> None:
        """`log_file` takes its standard error; default: this process's. With `qdrant_url` the
        collections are on that server; `folder` still holds the lock.

        Raises SettingsError when the client of that server is not installed."""
        self._runtime = Path(tempfile.mkdtemp(prefix="variet-"))
        self._command = [sys.executable, "-m", "orchestrator.knowledge.index_process"]
        self._command += ["--path", str(folder), "--socket", str(self._runtime / "index.sock")]
        self._command += ["--with-parent"]
        if embed_url:
            self._command += ["--embed-url", embed_url, "--embed-model", embed_model]
        if qdrant_url:
            require_qdrant_client()
            self._command += ["--qdrant-url", qdrant_url]
        # Not as arguments, which every user of the machine can read.
        keys = {"EMBED_KEY": embed_key, "QDRANT_API_KEY": qdrant_key}
        self._environment = os.environ | {name: key for name, key in keys.items() if key}
        self._log_file = log_file
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self.client = IndexClient(self._runtime / "index.sock")
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start it; returns before it is ready."""
        self._process = await self._spawn()
        self._watch = asyncio.create_task(self._keep_running(self._process))

    async def stop(self) -> None:
        """End it: its standard input closes, then it is killed if it has not ended in 5 s."""
        if self._watch:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        if self._process and self._process.returncode is None:
            assert self._process.stdin
            self._process.stdin.close()
            try:
                async with asyncio.timeout(_GRACE):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        shutil.rmtree(self._runtime, ignore_errors=True)

    async def __aenter__(self) -> "IndexProcess":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _keep_running(self, process: asyncio.subprocess.Process) -> None:
        pause = _FIRST_PAUSE
        started = time.monotonic()
        while True:
            code = await process.wait()
            if time.monotonic() - started > _STABLE:
                pause = _FIRST_PAUSE
            log.warning("the index process ended with %s; starting it in %.1f s", code, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            started = time.monotonic()
            try:
                process = self._process = await self._spawn()
            except OSError as error:
                log.warning("the index process cannot be started: %s", error)
                continue
            self.restarts += 1

    async def _spawn(self) -> asyncio.subprocess.Process:
        errors = self._log_file.open("ab") if self._log_file else None
        with errors or contextlib.nullcontext():
            return await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stderr=errors,
                cwd=REPOSITORY,
                env=self._environment,
                # A terminal's Ctrl-C must not end it before this process has drained its work.
                start_new_session=True,
            )
