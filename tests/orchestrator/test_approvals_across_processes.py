"""Approved calls of tools that live in another process: what is asked, done, and taken back."""

import asyncio
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from contracts.settings import REPOSITORY
from orchestrator.agent import toolbox, toolservers
from orchestrator.agent.toolbox import Toolbox
from orchestrator.embedded import tool_servers
from tests.support.hands import Hands, hands
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripted_reply import script
from tests.support.tool_process import TOKEN, ToolProcess, environment_of, tool_process

MAP = REPOSITORY / "data/samples/maps/boost_target.csv"
EDIT = {"cell_edits": [{"map": "boost_target", "row": 0, "column": 0, "value": 123.5}]}


@asynccontextmanager
async def remote_hands(
    engine: ScriptedEngine, state: Path, process: ToolProcess, name: str
) -> AsyncIterator[Hands]:
    """An orchestrator whose tool servers are those of a file that names this one."""
    file = state / "tools.yaml"
    file.write_text(f"{name}: {{url: '{process.url}', token_env: TEST_TOOL_TOKEN}}\n")
    async with hands(
        engine.url, state / "hands", tool_servers=tool_servers, tool_servers_file=file
    ) as variet:
        yield variet


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_TOOL_TOKEN", TOKEN)


async def workspace_command(state: Path, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "tools.workspace", *arguments,
        stdout=asyncio.subprocess.PIPE, env=environment_of(state),
    )  # fmt: skip
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    assert process.returncode == 0
    return said.decode()


async def test_a_patch_is_asked_about_made_and_taken_back(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    target = tmp_path / "workspace/maps/boost_target.csv"
    target.parent.mkdir(parents=True)
    shutil.copy(MAP, target)
    before = target.read_bytes()
    async with (
        tool_process(tmp_path, "tools.workspace") as process,
        remote_hands(engine, tmp_path, process, "workspace") as variet,
    ):
        patch = {"tool_calls": [{"name": "apply_patch", "arguments": EDIT}]}
        asked = await variet.ask(script(patch, {"text": "Done."}))
        (approval,) = asked["approvals"]
        assert approval["reason"] == "apply_patch changes 1 cell of map boost_target"
        assert target.read_bytes() == before
        path = f"/approvals/{approval['id']}"
        done = (await variet.client.post(path, json={"decision": "approve", "wait": True})).json()
        assert done["status"] == "completed"
        result = done["tool_calls"][0]["result"]
        assert result["files"] == ["maps/boost_target.csv"]
        assert result["tests"]["status"] == "not_run"
        assert b"123.5" in target.read_bytes()
    listed = await workspace_command(tmp_path, "list")
    assert listed == f"{result['undo']}  boost_target.csv\n"
    await workspace_command(tmp_path, "undo", result["undo"])
    assert target.read_bytes() == before


async def test_what_a_tool_would_refuse_is_refused_without_asking_anyone(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    (tmp_path / "workspace").mkdir()
    async with (
        tool_process(tmp_path, "tools.workspace") as process,
        remote_hands(engine, tmp_path, process, "workspace") as variet,
    ):
        tests = {"tool_calls": [{"name": "run_tests", "arguments": {}}]}
        answer = await variet.ask(script(tests, {"text": "I cannot."}))
        assert (answer["status"], answer["approvals"]) == ("completed", [])
        error = answer["tool_calls"][0]["error"]
        assert error["code"] == "unsandboxed"
        assert "ALLOW_UNSANDBOXED=1" in error["remedy"]
        by_hand = {"name": "run_tests", "arguments": {}}
        refused = await variet.client.post("/tools/execute", json=by_hand)
        assert (refused.status_code, refused.json()["error"]) == (422, error)


async def test_with_permission_it_is_asked_about_and_says_what_it_runs(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    tests = tmp_path / "workspace/test_it.py"
    tests.parent.mkdir()
    tests.write_text("def test_it():\n    assert 1\n")
    async with (
        tool_process(tmp_path, "tools.workspace", ALLOW_UNSANDBOXED="1") as process,
        remote_hands(engine, tmp_path, process, "workspace") as variet,
    ):
        call = {"tool_calls": [{"name": "run_tests", "arguments": {"path": "test_it.py"}}]}
        asked = await variet.ask(script(call, {"text": "Passed."}))
        (approval,) = asked["approvals"]
        assert approval["reason"] == (
            "run_tests executes the test code of test_it.py on this machine"
        )
        path = f"/approvals/{approval['id']}"
        done = (await variet.client.post(path, json={"decision": "approve", "wait": True})).json()
        assert done["tool_calls"][0]["result"]["passed"] == 1


async def test_a_tool_killed_in_an_approved_call_is_told_and_not_called_again(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    async with (
        tool_process(tmp_path) as process,
        remote_hands(engine, tmp_path, process, "probe") as variet,
    ):
        arguments: dict[str, Any] = {"text": "a", "hold": True}
        change = {"tool_calls": [{"name": "change", "arguments": arguments}]}
        asked = await variet.ask(script(change, {"text": "I do not know."}))
        path = f"/approvals/{asked['approvals'][0]['id']}"
        decision = {"decision": "approve", "wait": True}
        waiting = asyncio.create_task(variet.client.post(path, json=decision))
        assert await process.says() == {"began": "change"}
        await process.ended(signal.SIGKILL)
        async with tool_process(tmp_path, port=process.port):
            done = (await waiting).json()
        assert done["status"] == "completed"
        assert done["tool_calls"][0]["status"] == "indeterminate"
    assert (tmp_path / "changes").read_text() == "a"


async def test_nobody_can_approve_a_call_whose_tool_has_not_come_back(
    engine: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolservers, "RETRY_MAX_S", 0.05)
    monkeypatch.setattr(toolbox, "GATHER_S", 60.0)
    change = {"tool_calls": [{"name": "change", "arguments": {"text": "a"}}]}
    async with tool_process(tmp_path) as process:
        async with remote_hands(engine, tmp_path, process, "probe") as variet:
            asked = await variet.ask(script(change, {"text": "Done."}))
        approval = asked["approvals"][0]["id"]
        await process.ended(signal.SIGTERM)
    # Both have stopped; the orchestrator starts first.
    async with remote_hands(engine, tmp_path, process, "probe") as variet:
        decide = f"/approvals/{approval}"
        for decision in ({"decision": "approve"}, {"decision": "edit", "arguments": {"text": "b"}}):
            refused = await variet.client.post(decide, json=decision)
            assert refused.status_code == 503
            error = refused.json()["error"]
            assert error["code"] == "tool_unavailable"
            assert "probe does not answer: it cannot be reached" in error["message"]
            assert approval in error["remedy"]
        pending = (await variet.client.get("/approvals")).json()["items"]
        assert [one["id"] for one in pending] == [approval]
        call = {"name": "change", "arguments": {}}
        by_hand = await variet.client.post("/tools/execute", json=call)
        assert by_hand.status_code == 404
        assert "probe does not answer" in by_hand.json()["error"]["message"]
        async with tool_process(tmp_path, port=process.port):
            await variet.orchestrator.toolbox.gathered()
            done = await variet.client.post(decide, json={"decision": "approve", "wait": True})
            assert done.json()["tool_calls"][0]["status"] == "finished"
    assert (tmp_path / "changes").read_text() == "a"


async def test_a_call_of_a_tool_that_is_down_can_be_rejected(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    change = {"tool_calls": [{"name": "change", "arguments": {"text": "a"}}]}
    async with tool_process(tmp_path) as process:
        async with remote_hands(engine, tmp_path, process, "probe") as variet:
            asked = await variet.ask(script(change, {"text": "As you wish."}))
        await process.ended(signal.SIGTERM)
    async with remote_hands(engine, tmp_path, process, "probe") as variet:
        path = f"/approvals/{asked['approvals'][0]['id']}"
        done = await variet.client.post(path, json={"decision": "reject", "wait": True})
        assert done.json()["status"] == "completed"
    assert not (tmp_path / "changes").exists()


async def test_a_decision_that_the_orchestrator_did_not_live_to_follow_waits_for_the_tool(
    engine: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolservers, "RETRY_MAX_S", 0.05)
    monkeypatch.setattr(toolbox, "GATHER_S", 60.0)
    change = {"tool_calls": [{"name": "change", "arguments": {"text": "a"}}]}
    async with tool_process(tmp_path) as process:
        async with remote_hands(engine, tmp_path, process, "probe") as variet:
            asked = await variet.ask(script(change, {"text": "Done."}))
            approval = asked["approvals"][0]["id"]
            journal = variet.orchestrator.parts.journal
            assert await journal.decide(approval, "approved", "me", None, None, None)
        await process.ended(signal.SIGTERM)

    began = asyncio.Event()

    async def start_the_tool() -> None:
        await began.wait()
        async with tool_process(tmp_path, port=process.port):
            await done.wait()

    gathered = Toolbox.gathered

    async def noted(box: Toolbox) -> None:
        began.set()
        await gathered(box)

    monkeypatch.setattr(Toolbox, "gathered", noted)
    done = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(start_the_tool())
        async with remote_hands(engine, tmp_path, process, "probe") as variet:
            response = await variet.orchestrator.runs.wait(asked["run_id"])
            assert response.tool_calls[0].status == "finished"
        done.set()
    assert (tmp_path / "changes").read_text() == "a"
