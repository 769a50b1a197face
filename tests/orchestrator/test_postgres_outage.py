"""PostgreSQL dies under a running orchestrator, and comes back."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts.chat import ChatRequest
from tests.support import postgres
from tests.support.hands import Hands, hands
from tests.support.postgres_proxy import proxy
from tests.support.probe_tools import Probe
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripted_reply import script
from tests.support.threads import check_messages

CHANGE = {"tool_calls": [{"name": "change", "arguments": {"text": "x"}}]}
HANG = {"tool_calls": [{"name": "hang", "arguments": {}}]}
DONE = {"text": "Done."}
PATIENCE_S = 0.5


@pytest.fixture(scope="module")
def own() -> Iterator[postgres.Local]:
    try:
        with postgres.local() as server:
            server.start()
            yield server
    except postgres.NoServer as error:
        pytest.skip(str(error))


@pytest.fixture
async def variet(
    own: postgres.Local, engine: ScriptedEngine, probe: Probe, tmp_path: Path
) -> AsyncIterator[Hands]:
    with own.server.database() as url:
        async with hands(engine.url, tmp_path, probe.server, database_url=url) as running:
            parts: Any = running.orchestrator.parts
            for connections in (parts.store._db, parts.journal._db):
                connections.patience_s = PATIENCE_S
            yield running


async def refused(variet: Hands, method: str, path: str, **more: Any) -> dict[str, Any]:
    async with asyncio.timeout(20):
        answer = await variet.client.request(method, path, **more)
    assert answer.status_code == 503, answer.text
    assert "postgresql://" not in answer.text
    return dict(answer.json())


async def test_an_approval_outlives_the_server_and_is_decided_once(
    own: postgres.Local, variet: Hands, probe: Probe
) -> None:
    asked = await variet.ask(script(CHANGE, DONE))
    (approval,) = asked["approvals"]
    path = f"/approvals/{approval['id']}"
    own.kill()
    for method, where, body in (
        ("GET", "/approvals", None),
        ("POST", path, {"decision": "approve"}),
        ("GET", "/threads", None),
        ("POST", "/chat", {"message": "Hello"}),
    ):
        error = (await refused(variet, method, where, json=body))["error"]
        assert error["code"] == "store_unreachable"
        assert "Start it" in error["remedy"]
    health = await refused(variet, "GET", "/health")
    assert health["status"] == "down"
    assert health["checks"]["store"]["status"] == "down"
    assert "DATABASE_URL" in health["checks"]["store"]["remedy"]
    assert probe.calls["change"] == 0
    own.start()
    assert (await variet.client.get("/health")).json()["checks"]["store"]["status"] == "ok"
    assert (await variet.client.get("/approvals")).json()["items"] == [approval]
    decided = await variet.client.post(path, json={"decision": "approve", "wait": True})
    assert decided.json()["status"] == "completed"
    assert probe.calls["change"] == 1
    again = await variet.client.post(path, json={"decision": "approve"})
    assert again.status_code == 409


async def test_a_restart_that_nobody_waited_for_is_not_noticed(
    own: postgres.Local, variet: Hands
) -> None:
    first = await variet.ask(script(DONE))
    own.kill()
    own.start()
    second = await variet.ask(script(DONE), thread_id=first["thread_id"])
    assert second["answer"] == "Done."


async def test_a_run_that_loses_its_server_ends_and_says_why(
    own: postgres.Local, variet: Hands, probe: Probe
) -> None:
    runs, store = variet.orchestrator.runs, variet.orchestrator.store
    run_id = await runs.submit(ChatRequest(message=script(HANG, DONE)), "local")
    await probe.started.wait()
    own.kill()
    probe.release.set()
    async with asyncio.timeout(30):
        answer = await variet.client.get(f"/runs/{run_id}")
    assert answer.status_code == 503
    while runs.active:
        news = runs._drives.news
        await news.wait()
    own.start()
    await runs.renew()
    response = await runs.wait(run_id)
    assert response.status == "failed"
    assert response.error is not None
    assert response.error.code == "store_unreachable"
    (call,) = response.tool_calls
    assert call.status == "indeterminate"
    check_messages((await variet.client.get(f"/threads/{response.thread_id}")).json()["messages"])
    again = await variet.ask(script(DONE), thread_id=response.thread_id)
    assert again["status"] == "completed"
    record = await store.run(run_id)
    assert record is not None
    assert record.status == "failed"


async def test_health_answers_although_the_server_hangs(
    own: postgres.Local, engine: ScriptedEngine, probe: Probe, tmp_path: Path
) -> None:
    with own.server.database() as url:
        async with (
            proxy(url) as between,
            hands(engine.url, tmp_path, probe.server, database_url=between.url) as variet,
        ):
            between.freeze()
            health = await refused(variet, "GET", "/health")
            assert health["checks"]["store"]["detail"] == "the store does not answer within 1.5 s"
            between.thaw()
            between.break_all()
            assert (await variet.client.get("/health")).status_code == 200
