"""SIGTERM and Ctrl-C: runs may end, those that do not go on after the restart, nobody is left
hanging, and the process ends quietly."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pytest_asyncio import fixture

from tests.support.hands import read_events
from tests.support.orchestrator_process import Forks, Running, effects, forks
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripted_reply import script

pytestmark = pytest.mark.asyncio(loop_scope="module")
DONE = {"text": "Done."}
HANG = {"fault": "hang"}
ACT = {"tool_calls": [{"name": "act", "arguments": {"text": "once"}}]}
ACT_AND_HANG = {"tool_calls": [{"name": "act_and_hang", "arguments": {"text": "once"}}]}
PATIENT = {"drain_timeout_s": 60}
HURRIED = {"drain_timeout_s": 0.2}
PROMPTLY_S = 8  # far below the patient drain, and enough for a loaded machine


@fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Forks]:
    async with forks(tmp_path_factory.mktemp("shutdown")) as server:
        yield server


@fixture(loop_scope="module")
async def engine() -> AsyncIterator[ScriptedEngine]:
    async with ScriptedEngine() as engine:
        yield engine


async def quiet_end(process: Running) -> None:
    """It ends by itself with code 0, and has not complained."""
    assert await asyncio.wait_for(process.gone(), PROMPTLY_S) == 0
    assert process.stderr.read_text() == ""


async def hanging_run(process: Running, engine: ScriptedEngine, *after: dict[str, Any]) -> str:
    """A run whose first engine call hangs; after a restart the script goes on."""
    engine.script(HANG)
    asked = engine.received + 1
    run_id, _ = await process.start_run(script(*(after or (DONE,))))
    await engine.wait_for(requests=asked)
    return run_id


async def check_continued(server: Forks, engine: ScriptedEngine, state: Path, run_id: str) -> None:
    process = await server.start(state, engine.url, settings=HURRIED)
    response = await process.settled(run_id)
    assert (response["status"], response["answer"]) == ("completed", "Done.")
    process.terminate()
    await quiet_end(process)


async def test_a_streaming_run_ends_within_the_drain_and_its_reader_gets_all_of_it(
    server: Forks, engine: ScriptedEngine, tmp_path: Path
) -> None:
    process = await server.start(tmp_path, engine.url, settings=PATIENT)
    message = script({"tokens": 20, "delay_ms": 20})
    body = {"message": message, "stream": True}
    async with process.client.stream("POST", "/chat", json=body) as answer:
        events = []
        async for event in read_events(answer):
            events.append(event)
            if event["type"] == "token" and "w0" in event["data"]["text"]:
                process.terminate()
    assert events[-1]["data"]["status"] == "completed"
    assert "w19" in events[-1]["data"]["response"]["answer"]
    await quiet_end(process)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_run_that_outlasts_the_drain_is_handed_over(
    server: Forks, engine: ScriptedEngine, tmp_path: Path, number: signal.Signals
) -> None:
    process = await server.start(tmp_path, engine.url, settings=HURRIED)
    run_id = await hanging_run(process, engine)
    following = asyncio.create_task(process.follow(run_id))
    waiting = asyncio.create_task(process.client.post("/chat", json={"message": script(HANG)}))
    await engine.wait_for(requests=engine.received + 1)
    os.kill(process.pid, number)
    events = await asyncio.wait_for(following, PROMPTLY_S)
    assert "end" not in [e["type"] for e in events]
    told = await asyncio.wait_for(waiting, PROMPTLY_S)
    assert (told.status_code, told.json()["error"]["code"]) == (503, "shutting_down")
    await quiet_end(process)
    await check_continued(server, engine, tmp_path, run_id)


async def test_a_second_signal_hands_over_at_once(
    server: Forks, engine: ScriptedEngine, tmp_path: Path
) -> None:
    process = await server.start(tmp_path, engine.url, settings=PATIENT)
    run_id = await hanging_run(process, engine)
    body = {"message": script(HANG), "stream": True}
    async with process.client.stream("POST", "/chat", json=body) as answer:
        stream = read_events(answer)
        await anext(stream)
        os.kill(process.pid, signal.SIGINT)
        await refused(process)
        assert not process.ended.done()
        os.kill(process.pid, signal.SIGINT)
        rest = [event["type"] async for event in stream]
    assert "end" not in rest
    await quiet_end(process)
    await check_continued(server, engine, tmp_path, run_id)


async def refused(process: Running) -> None:
    """Until it takes no new connection."""
    async with httpx2.AsyncClient(base_url=process.url) as client:
        while True:
            try:
                answer = await client.post("/chat", json={"message": "hi"})
            except httpx2.TransportError:
                return
            if answer.status_code == 503:
                assert answer.json()["error"]["code"] == "shutting_down"
                return


async def test_an_interrupted_tool_is_told_as_unknown_after_the_restart(
    server: Forks, engine: ScriptedEngine, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "started")
    process = await server.start(tmp_path, engine.url, settings=HURRIED)
    run_id, _ = await process.start_run(script(ACT_AND_HANG, DONE))
    (approval,) = (await process.settled(run_id))["approvals"]
    await process.post(f"/approvals/{approval['id']}", decision="approve")
    assert await asyncio.to_thread((tmp_path / "started").read_text) == "started\n"
    process.terminate()
    await quiet_end(process)
    again = await server.start(tmp_path, engine.url)
    response = await again.settled(run_id)
    assert response["tool_calls"][0]["status"] == "indeterminate"
    assert effects(tmp_path) == ["once"]
    again.terminate()
    await quiet_end(again)


async def test_what_rests_or_waits_in_line_is_there_after_the_restart(
    server: Forks, engine: ScriptedEngine, tmp_path: Path
) -> None:
    process = await server.start(tmp_path, engine.url, settings=HURRIED)
    run_id, thread_id = await process.start_run(script(ACT, DONE))
    (approval,) = (await process.settled(run_id))["approvals"]
    body = {
        "message": script({"text": "Next."}),
        "thread_id": thread_id,
        "on_busy": "queue",
        "stream": True,
    }
    async with process.client.stream("POST", "/chat", json=body) as answer:
        assert answer.status_code == 200
        process.terminate()
        assert [event async for event in read_events(answer)] == []
    await quiet_end(process)
    again = await server.start(tmp_path, engine.url)
    assert (await again.get("/approvals"))["items"] == [approval]
    done = await again.post(f"/approvals/{approval['id']}", decision="approve", wait=True)
    assert done["answer"] == "Done."
    runs = (await again.get("/runs"))["items"]
    assert len(runs) == 2
    assert (await again.settled(runs[0]["id"]))["answer"] == "Next."
    again.terminate()
    await quiet_end(again)


async def test_an_idle_orchestrator_ends_at_once(
    server: Forks, engine: ScriptedEngine, tmp_path: Path
) -> None:
    process = await server.start(tmp_path, engine.url, settings=PATIENT)
    process.terminate()
    await quiet_end(process)
    for name in ("variet.db-wal", "journal.db-wal"):
        path = tmp_path / name
        assert not path.exists() or path.stat().st_size == 0


async def test_a_disk_without_room_is_a_plain_error_at_the_start(
    server: Forks, engine: ScriptedEngine, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match=r"variet\.db cannot be written.*Free space"):
        await server.start(tmp_path, engine.url, file_size_limit=2_000)


async def test_a_second_orchestrator_on_the_same_state_is_refused(
    server: Forks, engine: ScriptedEngine, tmp_path: Path
) -> None:
    process = await server.start(tmp_path, engine.url)
    with pytest.raises(AssertionError, match=r"in use by another orchestrator"):
        await server.start(tmp_path, engine.url)
    process.terminate()
    await quiet_end(process)
