"""Work that a cancellation may delay but not tear."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Its result, in any case. A cancellation meanwhile reaches the caller at its next await: it
    then knows what was written, as it would with a store that never lets go of the thread."""
    task = asyncio.ensure_future(work)
    caller = asyncio.current_task()
    assert caller is not None
    missed: list[asyncio.CancelledError] = []
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            missed.append(error)
    for one in missed:
        # In pairs, so that a surrounding asyncio.timeout counts right.
        caller.uncancel()
        caller.cancel(*one.args)
    return task.result()
