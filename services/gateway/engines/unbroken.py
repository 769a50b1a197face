"""Work that goes on to its end, whoever gives up waiting for it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


async def unbroken(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`. Cancelled, it still returns only when `work` is over, and then by
    CancelledError: so what a cancelled start has begun is cleared up after it, never beside it.
    """
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        # Its error is of no use to anyone now; asyncio would complain that nobody has looked at it.
        if not task.cancelled():
            task.exception()
        raise asyncio.CancelledError
    return task.result()
