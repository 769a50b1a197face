"""SIGKILL at every step of a run, and a restart: nothing approved is lost, nothing runs twice.

CRASH_ROUNDS sets the rounds over the four named points (20; the nightly target takes 200, and
dies after each write as well as before it).
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pytest_asyncio import fixture

from tests.support.orchestrator_process import Forks, Running, effects, forks
from tests.support.postgres import Server
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripted_reply import script
from tests.support.threads import check_messages

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.nightly]
ROUNDS = int(os.environ.get("CRASH_ROUNDS", "20"))
POSTGRES_ROUNDS = max(4, ROUNDS // 5)
ACT = {"tool_calls": [{"name": "act", "arguments": {"text": "once"}}]}
ACT_AND_HANG = {"tool_calls": [{"name": "act_and_hang", "arguments": {"text": "once"}}]}
DONE = {"text": "Done."}
HANG = {"fault": "hang"}
ACTIONS = 12
SIDES = {"before": 1} if ROUNDS < 200 else {"before": 1, "after": -1}
MORE_WRITES_THAN_A_RUN_HAS = 30


@fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Forks]:
    async with forks(tmp_path_factory.mktemp("crash")) as server:
        yield server


@fixture(loop_scope="module")
async def engine() -> AsyncIterator[ScriptedEngine]:
    async with ScriptedEngine() as engine:
        yield engine


async def approve(process: Running, approval: dict[str, Any]) -> dict[str, Any]:
    path = f"/approvals/{approval['id']}"
    return dict(await process.post(path, decision="approve", wait=True))


async def ended(process: Running, run_id: str) -> dict[str, Any]:
    """Approve whatever the run asks for, until it has ended."""
    response = await process.settled(run_id)
    while response["status"] == "awaiting_approval":
        (approval,) = response["approvals"]
        response = await approve(process, approval)
    assert response["status"] == "completed"
    return response


async def pending(process: Running) -> list[dict[str, Any]]:
    return list((await process.get("/approvals"))["items"])


async def check_thread(process: Running, thread_id: str) -> list[dict[str, Any]]:
    """The thread is well-formed: asked once, called once, answered once; its messages."""
    messages = (await process.get(f"/threads/{thread_id}"))["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant", "tool", "assistant"]
    assert messages[-1]["content"] == "Done."
    return list(messages)


async def during_the_model_call(server: Forks, engine: ScriptedEngine, state: Path) -> None:
    first = await server.start(state, engine.url)
    engine.script(HANG)
    asked = engine.received + 1
    run_id, thread_id = await first.start_run(script(ACT, DONE))
    await engine.wait_for(requests=asked)
    await first.kill()
    second = await server.start(state, engine.url)
    response = await second.settled(run_id)
    assert response["status"] == "awaiting_approval"
    assert effects(state) == []
    response = await ended(second, run_id)
    assert response["tool_calls"][0]["status"] == "finished"
    assert effects(state) == ["once"]
    await check_thread(second, thread_id)
    await second.kill()


async def at_a_pending_approval(server: Forks, engine: ScriptedEngine, state: Path) -> None:
    first = await server.start(state, engine.url)
    run_id, thread_id = await first.start_run(script(ACT, DONE))
    before = await first.settled(run_id)
    listed = await pending(first)
    assert listed == before["approvals"]
    await first.kill()
    second = await server.start(state, engine.url)
    assert await pending(second) == listed
    assert (await second.get(f"/runs/{run_id}"))["status"] == "awaiting_approval"
    response = await approve(second, listed[0])
    assert response["status"] == "completed"
    assert effects(state) == ["once"]
    assert await pending(second) == []
    await check_thread(second, thread_id)
    await second.kill()


async def while_an_approved_tool_runs(server: Forks, engine: ScriptedEngine, state: Path) -> None:
    os.mkfifo(state / "started")
    first = await server.start(state, engine.url)
    run_id, thread_id = await first.start_run(script(ACT_AND_HANG, DONE))
    (approval,) = (await first.settled(run_id))["approvals"]
    await first.post(f"/approvals/{approval['id']}", decision="approve")
    assert await asyncio.to_thread((state / "started").read_text) == "started\n"
    await first.kill()
    second = await server.start(state, engine.url)
    response = await second.settled(run_id)
    assert response["status"] == "completed"
    assert response["tool_calls"][0]["status"] == "indeterminate"
    assert effects(state) == ["once"]
    assert await pending(second) == []
    messages = await check_thread(second, thread_id)
    assert "may or may not have taken effect" in messages[2]["content"]
    await second.kill()


async def after_the_tool(server: Forks, engine: ScriptedEngine, state: Path) -> None:
    first = await server.start(state, engine.url)
    run_id, thread_id = await first.start_run(script(ACT, DONE))
    (approval,) = (await first.settled(run_id))["approvals"]
    engine.script(HANG)
    asked = engine.received + 1
    await first.post(f"/approvals/{approval['id']}", decision="approve")
    await engine.wait_for(requests=asked)
    await first.kill()
    second = await server.start(state, engine.url)
    response = await second.settled(run_id)
    assert response["status"] == "completed"
    assert response["tool_calls"][0]["status"] == "finished"
    assert effects(state) == ["once"]
    await check_thread(second, thread_id)
    await second.kill()


POINTS = (
    during_the_model_call,
    at_a_pending_approval,
    while_an_approved_tool_runs,
    after_the_tool,
)


@pytest.mark.parametrize("number", range(ROUNDS))
async def test_a_killed_orchestrator_goes_on_where_it_was(
    server: Forks, engine: ScriptedEngine, tmp_path: Path, number: int
) -> None:
    await POINTS[number % len(POINTS)](server, engine, tmp_path)


@pytest.mark.parametrize("number", range(POSTGRES_ROUNDS))
async def test_a_killed_orchestrator_on_postgres_goes_on_where_it_was(
    server: Forks, engine: ScriptedEngine, tmp_path: Path, number: int, database_url: str
) -> None:
    with on(server, database_url):
        await POINTS[number % len(POINTS)](server, engine, tmp_path)


@contextmanager
def on(server: Forks, database_url: str) -> Iterator[None]:
    """What is started meanwhile has its stores there."""
    server.database_url = database_url
    try:
        yield
    finally:
        server.database_url = None


@pytest.mark.timeout(300)
@pytest.mark.parametrize("side", SIDES)
async def test_a_kill_at_any_write_neither_loses_nor_repeats_anything(
    server: Forks, engine: ScriptedEngine, tmp_path: Path, side: str
) -> None:
    """Every durable write of a run with an approved call is a place to die at, in turn."""
    for number in range(1, MORE_WRITES_THAN_A_RUN_HAS):
        state = tmp_path / str(number)
        state.mkdir()
        if not await _dies_at(server, engine, state, SIDES[side] * number):
            break
    assert 8 < number < MORE_WRITES_THAN_A_RUN_HAS - 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize("side", SIDES)
async def test_a_kill_at_any_write_to_postgres_neither_loses_nor_repeats_anything(
    server: Forks, engine: ScriptedEngine, tmp_path: Path, side: str, postgres_server: Server
) -> None:
    for number in range(1, MORE_WRITES_THAN_A_RUN_HAS):
        state = tmp_path / str(number)
        state.mkdir()
        with postgres_server.database() as url, on(server, url):
            if not await _dies_at(server, engine, state, SIDES[side] * number):
                break
    assert 8 < number < MORE_WRITES_THAN_A_RUN_HAS - 1


def snapshot(folder: Path) -> dict[str, bytes]:
    """The store's files as they are now."""
    return {name: (folder / name).read_bytes() for name in ("variet.db", "variet.db-wal")}


def put_back(folder: Path, files: dict[str, bytes]) -> None:
    (folder / "variet.db-shm").unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)


async def test_a_power_cut_that_takes_the_stores_last_seconds_repeats_no_execution(
    server: Forks, engine: ScriptedEngine, tmp_path: Path
) -> None:
    """The store may lose its newest commits in a power cut, the journal none."""
    first = await server.start(tmp_path, engine.url)
    run_id, thread_id = await first.start_run(script(ACT, DONE))
    (approval,) = (await first.settled(run_id))["approvals"]
    earlier = snapshot(tmp_path)
    assert (await approve(first, approval))["status"] == "completed"
    await first.kill()
    put_back(tmp_path, earlier)
    second = await server.start(tmp_path, engine.url)
    response = await second.settled(run_id)
    while response["status"] == "awaiting_approval":
        response = await second.settled(run_id)
    assert response["tool_calls"][0]["status"] == "finished"
    assert effects(tmp_path) == ["once"]
    await check_thread(second, thread_id)
    await second.kill()


class Caller:
    """Asks, approves and stops over HTTP until the orchestrator is gone. No two calls that it
    makes the model ask for are the same."""

    def __init__(self, number: int, chance: random.Random, approved: set[str]) -> None:
        self._chance = chance
        self._approved = approved
        self._texts = (f"{number}-{n}" for n in count())

    async def call(self, process: Running) -> None:
        with suppress(httpx2.TransportError):
            for _ in range(ACTIONS):
                await self._act(process)

    async def _act(self, process: Running) -> None:
        chosen = self._chance.choice(["ask", "ask", "approve", "approve", "approve", "stop"])
        if chosen == "ask":
            await self._ask(process)
        elif chosen == "approve":
            for approval in await pending(process):
                self._approved.add(approval["arguments"]["text"])
                path = f"/approvals/{approval['id']}"
                await process.client.post(path, json={"decision": "approve"})
        else:
            run = self._chance.choice((await process.get("/runs"))["items"] or [None])
            if run is not None:
                await process.client.post(f"/runs/{run['id']}/stop")

    async def _ask(self, process: Running) -> None:
        calls = [
            {"name": "act", "arguments": {"text": next(self._texts)}}
            for _ in range(self._chance.randint(1, 2))
        ]
        threads = [None, *(t["id"] for t in (await process.get("/threads"))["items"])]
        body = {
            "message": script({"tool_calls": calls}, DONE),
            "thread_id": self._chance.choice(threads),
            "on_busy": self._chance.choice(["queue", "interrupt"]),
            "stream": True,
        }
        async with process.client.stream("POST", "/chat", json=body) as answer:
            await anext(answer.aiter_lines())


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(max(1, ROUNDS // 10)))
async def test_many_callers_and_many_kills_repeat_nothing_and_tear_nothing(
    server: Forks, engine: ScriptedEngine, tmp_path: Path, seed: int
) -> None:
    await _storm(server, engine, tmp_path, seed)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(max(1, ROUNDS // 50)))
async def test_many_callers_and_many_kills_on_postgres_repeat_nothing_and_tear_nothing(
    server: Forks, engine: ScriptedEngine, tmp_path: Path, seed: int, database_url: str
) -> None:
    with on(server, database_url):
        await _storm(server, engine, tmp_path, seed)


async def _storm(server: Forks, engine: ScriptedEngine, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    approved: set[str] = set()
    callers = [Caller(number, chance, approved) for number in range(4)]
    for _ in range(3):
        process = await server.start(tmp_path, engine.url, die_at=chance.randint(10, 150))
        await asyncio.gather(*(caller.call(process) for caller in callers))
        if not process.ended.done() and await _answers(process):
            await process.kill()
        await process.gone()
    process = await server.start(tmp_path, engine.url)
    for run in (await process.get("/runs?limit=200"))["items"]:
        await process.client.post(f"/runs/{run['id']}/stop")
    runs = (await process.get("/runs?limit=200"))["items"]
    assert runs
    assert {run["status"] for run in runs} <= {"completed", "stopped", "failed"}
    failed = [run["response"]["error"]["code"] for run in runs if run["status"] == "failed"]
    assert set(failed) <= {"crashed_repeatedly"}
    assert await pending(process) == []
    done = effects(tmp_path)
    assert len(done) == len(set(done))
    assert set(done) <= approved
    for thread in (await process.get("/threads?limit=200"))["items"]:
        check_messages((await process.get(f"/threads/{thread['id']}"))["messages"])
    await process.kill()


async def _dies_at(server: Forks, engine: ScriptedEngine, state: Path, write: int) -> bool:
    """One round; False if the run had fewer writes than that."""
    first = await server.start(state, engine.url, die_at=write)
    seen: list[int] = []
    with suppress(httpx2.TransportError):
        body = {"message": script(ACT, DONE), "stream": True}
        async with first.client.stream("POST", "/chat", json=body) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("id: "):
                    seen.append(int(line[4:]))
        for approval in await pending(first):
            await approve(first, approval)
    died = first.ended.done() or not await _answers(first)
    if not died:
        await first.kill()
    assert await first.gone() == -9
    second = await server.start(state, engine.url)
    threads = (await second.get("/threads"))["items"]
    runs = (await second.get("/runs"))["items"]
    if not runs:
        assert threads == []
        assert seen == []
        await second.kill()
        return died
    (run,) = runs
    response = await ended(second, run["id"])
    (call,) = response["tool_calls"]
    if call["status"] == "finished":
        assert effects(state) == ["once"]
    else:
        assert call["status"] == "indeterminate"
        assert len(effects(state)) <= 1
    await check_thread(second, run["thread_id"])
    assert await pending(second) == []
    ids = [event["id"] for event in await second.follow(run["id"])]
    assert ids == sorted(set(ids))
    fresh = [event["id"] for event in await second.follow(run["id"], max(seen, default=0))]
    assert not set(fresh) & set(seen)
    await second.kill()
    return died


async def _answers(process: Running) -> bool:
    try:
        await process.get("/ready")
    except httpx2.TransportError:
        return False
    return True
