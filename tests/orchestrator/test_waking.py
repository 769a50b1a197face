"""A brain that sleeps is woken by the question that needs it."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts.wake import magic_packet, wake
from orchestrator.agent import waking
from orchestrator.agent.waking import Waker
from tests.orchestrator.test_waiting import end_of, stages
from tests.support.hands import hands
from tests.support.scripted_engine import ScriptedEngine

MAC = "1c:69:7a:0b:2d:3e"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What a sleeping network card would hear."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.settimeout(30)
        port = listening.getsockname()[1]
        send = wake
        monkeypatch.setattr(waking, "wake", lambda mac, *_: send(mac, ["127.0.0.1"], port))
        yield listening


def heard(listening: socket.socket) -> list[bytes]:
    listening.setblocking(False)
    found = []
    try:
        while True:
            found.append(listening.recvfrom(2_048)[0])
    except BlockingIOError:
        return found


async def events_of_a_woken_brain(state: Path, receiver: socket.socket) -> list[dict[str, Any]]:
    """Ask while nobody listens at the engine's address; it comes up once the packet is there."""
    engine = ScriptedEngine()
    await engine.start()
    async with hands(engine.url, state, brain_mac=MAC) as h:
        await engine.stop()
        asking = asyncio.create_task(h.events("Hello?"))
        received, _ = await asyncio.to_thread(receiver.recvfrom, 2_048)
        assert received == magic_packet(MAC)
        await engine.start()
        events = await asking
        await engine.stop()
    return events


async def test_a_question_wakes_the_brain_once_and_is_answered(
    tmp_path: Path, receiver: socket.socket
) -> None:
    events = await events_of_a_woken_brain(tmp_path, receiver)
    assert end_of(events)["status"] == "completed"
    assert stages(events)[0]["detail"] == "waking the brain"
    assert stages(events)[-1]["status"] == "finished"
    assert heard(receiver) == [], "one packet is enough"


async def test_a_brain_that_stays_away_is_said_after_its_time(
    tmp_path: Path, receiver: socket.socket
) -> None:
    async with ScriptedEngine() as engine:
        url = engine.url
    async with hands(url, tmp_path, brain_mac=MAC, brain_wake_s=0.1) as h:
        events = await h.events("Hello?")
    assert end_of(events)["error"]["code"] == "engine_unreachable"
    assert heard(receiver) == [magic_packet(MAC)]


async def test_a_brain_that_breaks_off_is_awake(tmp_path: Path, receiver: socket.socket) -> None:
    async with ScriptedEngine() as engine, hands(engine.url, tmp_path, brain_mac=MAC) as h:
        engine.clear()
        engine.script(*[{"fault": "close"}] * 3)
        events = await h.events("Hello?")
        assert engine.received == 3
    assert end_of(events)["error"]["code"] == "engine_unreachable"
    assert (stages(events), heard(receiver)) == ([], [])


async def test_without_its_card_s_address_it_is_left_alone(
    tmp_path: Path, receiver: socket.socket
) -> None:
    async with ScriptedEngine() as engine:
        url = engine.url
    async with hands(url, tmp_path) as h:
        events = await h.events("Hello?")
    assert end_of(events)["error"]["code"] == "engine_unreachable"
    assert (stages(events), heard(receiver)) == ([], [])


async def test_what_nobody_waits_for_wakes_nobody(tmp_path: Path, receiver: socket.socket) -> None:
    async with ScriptedEngine() as engine:
        url = engine.url
    async with hands(url, tmp_path, brain_mac=MAC):  # which greets the engine by itself
        pass
    assert heard(receiver) == []


async def test_the_next_outage_is_another_one(receiver: socket.socket) -> None:
    waker = Waker("http://127.0.0.1:9/v1", MAC, 60)
    assert [await waker.waking() for _ in range(3)] == [True] * 3
    waker.answered()
    assert await waker.waking()
    assert heard(receiver) == [magic_packet(MAC)] * 2
