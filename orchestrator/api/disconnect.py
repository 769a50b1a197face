"""Work for a caller who may leave before it is done."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request

T = TypeVar("T")


async def while_connected(
    request: Request,
    work: Coroutine[Any, Any, T],
    on_gone: Callable[[], Awaitable[object]] | None = None,
) -> T | None:
    """The result of `work`. If the caller leaves first: `on_gone` is to make the work end; without
    one it is cancelled, and the result is None."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done() and on_gone is not None:
            await on_gone()
            return await task
        return await task if task.done() else None
    finally:
        gone.cancel()
        task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
