"""The stack around ordinary code: one per state folder, stopped however that code ends."""

import asyncio
import fcntl
import shutil
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from cli.stack import Running, Stack
from contracts.errors import Conflict
from contracts.settings import REPOSITORY, Settings, load_settings

SAMPLES = REPOSITORY / "data" / "samples"
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
T = TypeVar("T")


def settings_for(
    state_dir: Path | None = None, port: int | None = None, own_workspace: bool = False
) -> Settings:
    """The settings of the environment with these in their place. With `own_workspace`, files,
    maps and logs lie below `state_dir` whatever the environment says."""
    given: dict[str, object] = {}
    if state_dir is not None:
        given["state_dir"] = state_dir
    if port is not None:
        given["port"] = port
    if own_workspace and state_dir is not None:
        workspace = state_dir / "workspace"
        given |= {
            "workspace_dir": workspace,
            "maps_dir": workspace / "maps",
            "logs_dir": workspace / "logs",
            "bind_addr": "127.0.0.1",
        }
    return load_settings(**given)


@dataclass(frozen=True)
class Served:
    """What serves, and `wait`, which blocks until it fails by itself and then says why."""

    stack: Running
    wait: Callable[[], None]


@contextmanager
def running(stack: Stack) -> Iterator[Served]:
    """A stack that serves while the body runs. Its loop has a thread of its own, so the body may
    block. The first of Ctrl-C, SIGTERM and SIGHUP ends it; the stack is stopped in any case."""
    settings = stack.settings
    with _only_one(settings.state_dir), _signals():
        if settings.workspace_dir is None or settings.workspace.parent == settings.state_dir:
            seed(settings.workspace)
        with _Loop() as loop:
            try:
                started = loop.run(stack.start())
                yield Served(started, lambda: loop.run(stack.wait()))
            finally:
                with _deaf():
                    loop.run(stack.stop())


def seed(workspace: Path, samples: Path = SAMPLES) -> bool:
    """Copy the samples to `workspace` if it is not there yet; the samples stay as they are."""
    if workspace.exists():
        return False
    half = workspace.with_name(f"{workspace.name}.part")
    shutil.rmtree(half, ignore_errors=True)
    shutil.copytree(samples, half)
    half.rename(workspace)
    return True


class _Loop:
    """An event loop in a thread. `run` blocks the caller and can be interrupted by a signal."""

    def __enter__(self) -> "_Loop":
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stack", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`. When interrupted, cancels it and waits until it has unwound."""
        done = threading.Event()
        tasks: list[asyncio.Task[T]] = []

        def begin() -> None:
            tasks.append(self._loop.create_task(work))
            tasks[0].add_done_callback(lambda _: done.set())

        self._loop.call_soon_threadsafe(begin)
        try:
            done.wait()
        except KeyboardInterrupt:
            self._loop.call_soon_threadsafe(lambda: tasks[0].cancel())
            with _deaf():
                done.wait()
            raise
        return tasks[0].result()


@contextmanager
def _only_one(state_dir: Path) -> Iterator[None]:
    state_dir.mkdir(parents=True, exist_ok=True)
    lock = state_dir / "stack.lock"
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                "already_running",
                f"Another Variet works on STATE_DIR={state_dir}.",
                "Use that one (variet chat), stop it, or set STATE_DIR to another folder.",
            ) from None
        yield


@contextmanager
def _signals() -> Iterator[None]:
    def interrupt(number: int, frame: FrameType | None) -> None:
        # A second one would strike where the first is being handled, lock in hand.
        for each in STOPPING:
            signal.signal(each, _unheard)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _unheard(number: int, frame: FrameType | None) -> None:
    """Not SIG_IGN: Python complains of a signal that was caught before it came to be ignored."""


@contextmanager
def _deaf() -> Iterator[None]:
    """Stopping is not to be interrupted half way; it has time limits of its own."""
    before = {number: signal.signal(number, _unheard) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
