"""Work that a client waits for, and what becomes of it when the client leaves."""

import asyncio

import pytest

from contracts.tiers import SwapProgress
from services.gateway.front.limits import Limits
from services.gateway.front.waiting import PING, Waiting, comment


async def written(_: bytes) -> None:
    """Takes all that is written."""


async def test_a_result_that_comes_as_the_client_leaves_is_given_back() -> None:
    """The work is done in the very step in which its client is cancelled."""
    discarded: list[str] = []
    done = asyncio.Event()

    async def work() -> str:
        try:
            await done.wait()
        except asyncio.CancelledError:
            # What is granted already is returned even so.
            return "granted"
        return "granted"

    waiting = Waiting(None, written, comment, Limits())
    client = asyncio.create_task(waiting.attend(work(), discarded.append))
    for _ in range(5):
        await asyncio.sleep(0)
    client.cancel()
    with pytest.raises(asyncio.CancelledError):
        await client
    for _ in range(5):
        await asyncio.sleep(0)
    assert discarded == ["granted"]


async def test_work_that_fails_fails_for_who_waits_and_nothing_is_given_back() -> None:
    async def work() -> str:
        raise ValueError("a failure of this test")

    discarded: list[str] = []
    waiting = Waiting(None, written, comment, Limits())
    with pytest.raises(ValueError, match="a failure"):
        await waiting.attend(work(), discarded.append)
    assert discarded == []


async def test_every_change_is_told_once_and_in_order() -> None:
    told: list[bytes] = []

    async def write(piece: bytes) -> None:
        told.append(piece)

    waiting = Waiting(None, write, comment, Limits(ping=60))

    async def work() -> None:
        for position in (3, 3, 2, 1, 1):
            waiting.note(SwapProgress(engine="small", stage="queued", position=position))
            await asyncio.sleep(0)

    await waiting.attend(work(), lambda _: None)
    events = [event for piece in told for event in piece.split(b"\n\n") if event]
    told_positions = [event for event in events if event != PING.strip()]
    assert all(b'"position":%d' % n in e for n, e in zip((3, 2, 1), told_positions, strict=True))
