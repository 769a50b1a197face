"""What is kept, for how long, and that nothing grows without an end."""

import gc
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from contracts.chat import ChatRequest
from orchestrator.agent.drive import Drive
from orchestrator.agent.log import RunLog
from orchestrator.agent.turn import Turn
from orchestrator.store.records import RunRecord
from tests.support.hands import Hands, hands
from tests.support.probe_tools import Probe
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripted_reply import script

LOOK = {"tool_calls": [{"name": "look", "arguments": {"text": "x"}}]}
CHANGE = {"tool_calls": [{"name": "change", "arguments": {"text": "x"}}]}
DONE = {"text": "Done."}
DAY_S = 86_400


def rows(folder: Path) -> Counter[str]:
    """How many rows each table holds."""
    found: Counter[str] = Counter()
    for name in ("variet.db", "journal.db"):
        db = sqlite3.connect(folder / name)
        tables = [r[0] for r in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        for table in tables:
            found[table] = db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        db.close()
    return +found


def age(folder: Path, thread_id: str, days: float) -> None:
    db = sqlite3.connect(folder / "variet.db", isolation_level=None)
    db.execute(
        "UPDATE threads SET updated_at = ? WHERE id = ?", (time.time() - days * DAY_S, thread_id)
    )
    db.close()


async def test_a_deleted_thread_takes_everything_with_it(variet: Hands, tmp_path: Path) -> None:
    before = rows(tmp_path)
    answer = await variet.ask(script(LOOK, CHANGE, DONE))
    (approval,) = answer["approvals"]
    path = f"/approvals/{approval['id']}"
    done = await variet.client.post(path, json={"decision": "approve", "wait": True})
    assert done.json()["status"] == "completed"
    assert set(rows(tmp_path)) >= {"threads", "messages", "runs", "events", "exchanges"}
    assert set(rows(tmp_path)) >= {"approvals", "executions"}
    deleted = await variet.client.delete(f"/threads/{answer['thread_id']}")
    assert deleted.json() == {"deleted": 1}
    assert rows(tmp_path) == before


async def test_pruning_takes_idle_threads_and_leaves_those_that_live(
    variet: Hands, tmp_path: Path
) -> None:
    old = (await variet.ask(script(LOOK, DONE)))["thread_id"]
    new = (await variet.ask(script(LOOK, DONE)))["thread_id"]
    waiting = (await variet.ask(script(CHANGE, DONE)))["thread_id"]
    for thread_id in (old, waiting):
        age(tmp_path, thread_id, days=31)
    pruned = await variet.client.delete("/threads?older_than_days=30")
    assert pruned.json() == {"deleted": 1}
    left = {t["id"] for t in (await variet.client.get("/threads")).json()["items"]}
    assert left == {new, waiting}
    assert len((await variet.client.get("/approvals")).json()["items"]) == 1


async def test_a_thread_that_cannot_be_deleted_keeps_its_approval(
    variet: Hands, probe: Probe
) -> None:
    answer = await variet.ask(script(CHANGE, DONE))
    assert await variet.orchestrator.delete_threads([answer["thread_id"]]) == 0
    path = f"/approvals/{answer['approvals'][0]['id']}"
    done = await variet.client.post(path, json={"decision": "approve", "wait": True})
    assert done.json()["status"] == "completed"
    assert probe.calls["change"] == 1


async def test_an_answer_to_an_old_approval_makes_its_thread_young_again(
    variet: Hands, tmp_path: Path
) -> None:
    answer = await variet.ask(script(CHANGE, DONE))
    age(tmp_path, answer["thread_id"], days=31)
    path = f"/approvals/{answer['approvals'][0]['id']}"
    await variet.client.post(path, json={"decision": "approve", "wait": True})
    pruned = await variet.client.delete("/threads?older_than_days=30")
    assert pruned.json() == {"deleted": 0}


async def test_retention_deletes_threads_and_raw_exchanges_at_the_start(
    engine: ScriptedEngine, probe: Probe, tmp_path: Path
) -> None:
    async with hands(engine.url, tmp_path, probe.server) as variet:
        old = (await variet.ask(script(DONE)))["thread_id"]
        for _ in range(4):
            await variet.ask(script(DONE))
        age(tmp_path, old, days=8)
    limits: dict[str, Any] = {"retention_days": 7, "raw_runs": 2}
    async with hands(engine.url, tmp_path, probe.server, **limits) as variet:
        await variet.orchestrator._retain()
        assert rows(tmp_path)["threads"] == 4
        assert rows(tmp_path)["exchanges"] == 2
    async with hands(engine.url, tmp_path, probe.server, retention_days=0) as variet:
        await variet.orchestrator._retain()
        assert rows(tmp_path)["threads"] == 4


def alive() -> Counter[str]:
    gc.collect()
    kinds = (Drive, RunLog, Turn, RunRecord)
    return Counter(type(o).__name__ for o in gc.get_objects() if isinstance(o, kinds))


@pytest.mark.timeout(240)
async def test_three_hundred_runs_leave_no_objects_and_no_long_log_behind(
    variet: Hands, tmp_path: Path
) -> None:
    """Every tenth run awaits an approval for ever, every tenth is stopped."""
    orchestrator = variet.orchestrator
    wal = tmp_path / "variet.db-wal"
    sizes = []
    for number in range(300):
        message = script(CHANGE if number % 10 == 0 else LOOK, DONE)
        run_id = await orchestrator.runs.submit(ChatRequest(message=message), "local")
        if number % 10 == 1:
            await orchestrator.runs.stop(run_id)
        await orchestrator.runs.wait(run_id)
        if number % 20 == 19:
            await orchestrator.store.checkpoint()
            sizes.append(wal.stat().st_size)
    left = alive()
    assert left["Drive"] == 0
    # Cancelled timers of the event loop hold the last few, until the loop sweeps them out.
    assert max(left.values(), default=0) < 50
    assert orchestrator.runs.active == 0
    assert len(orchestrator.runs._drives._tasks) == 0
    assert max(sizes[8:]) <= 1.5 * max(sizes[:8])
    assert rows(tmp_path)["runs"] == 300
