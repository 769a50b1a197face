"""What a client is told while its request waits: progress as it comes, or a sign of life."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from contracts.tiers import SwapProgress
from services.gateway.front.limits import Limits

T = TypeVar("T")
PING = b": ping\n\n"
KEPT = 64


def comment(progress: SwapProgress) -> bytes:
    return b": " + progress.model_dump_json().encode() + b"\n\n"


class Waiting:
    """Attends work for a client that asked to be told. `open_` sends status and headers, which is
    put off for `progress_after` s: until then a refusal is still a plain status. None: they are
    sent already."""

    def __init__(
        self,
        open_: Callable[[], Awaitable[None]] | None,
        write: Callable[[bytes], Awaitable[None]],
        told: Callable[[SwapProgress], bytes],
        limits: Limits,
    ) -> None:
        self._open, self._write, self._told = open_, write, told
        self._limits = limits
        self._news: deque[SwapProgress] = deque(maxlen=KEPT)
        self._last: SwapProgress | None = None
        self._wake = asyncio.Event()
        self._opened = open_ is None

    def note(self, progress: SwapProgress) -> None:
        if progress != self._last:
            self._last = progress
            self._news.append(progress)
            self._wake.set()

    async def attend(self, work: Coroutine[Any, Any, T], discard: Callable[[T], object]) -> T:
        """The result of `work`, or what it raises. `discard` gets a result that nobody takes: the
        client can leave in the very step in which the work is done."""
        task = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._wake.set())
        try:
            await self._changed(self._limits.progress_after if not self._opened else 0)
            # A refusal that follows its first report at once shall still be a plain status.
            await asyncio.sleep(0)
            while not task.done():
                await self._say()
                await self._changed(self._limits.ping)
            if self._opened and self._news:
                await self._say()
        except BaseException:  # boundary: however this ends, the work shall not go on alone
            task.add_done_callback(partial(_discard, discard))
            task.cancel()
            raise
        return task.result()

    async def _changed(self, seconds: float) -> None:
        """Returns when there is news, the work is done, or the time is over."""
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                await self._wake.wait()
        except TimeoutError:
            if not limit.expired():
                raise
        self._wake.clear()

    async def _say(self) -> None:
        if not self._opened and self._open is not None:
            self._opened = True
            await self._open()
        said = b"".join(map(self._told, self._news))
        self._news.clear()
        await self._write(said or PING)


def _discard(discard: Callable[[T], object], task: asyncio.Task[T]) -> None:
    if not task.cancelled() and task.exception() is None:
        discard(task.result())
