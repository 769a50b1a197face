"""What a process finds when it starts: whatever the last one left, it brings to its end."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agent import messages as wire
from orchestrator.agent.runs import MAX_RECOVERIES
from orchestrator.agent.toolbox import arguments_hash
from orchestrator.store.journal import SqliteJournal
from orchestrator.store.records import (
    Addition,
    ApprovalRecord,
    EventBlock,
    ExecutionRecord,
    RunRecord,
    ThreadRecord,
    new_id,
)
from orchestrator.store.sqlite import SqliteStore
from tests.support.hands import Hands, hands
from tests.support.probe_tools import Probe
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripted_reply import script

OWNER = "local"
LONG = 4e9
ARGUMENTS = {"text": "x"}
CALL = {"tool_calls": [{"name": "change", "arguments": ARGUMENTS}]}
DONE = {"text": "Done."}


@dataclass
class Left:
    """Writes what a process that is gone has left behind."""

    store: SqliteStore
    journal: SqliteJournal

    @classmethod
    def in_folder(cls, folder: Path) -> "Left":
        return cls(SqliteStore(folder / "variet.db"), SqliteJournal(folder / "journal.db"))

    async def close(self) -> None:
        await self.journal.close()
        await self.store.close()

    async def run(
        self,
        message: str,
        status: Any = "running",
        thread: ThreadRecord | None = None,
        lease: float = LONG,
    ) -> RunRecord:
        new = ThreadRecord(new_id("thr"), OWNER, "t", 1.0, 1.0)
        place = thread or new
        request = {"chat": {"message": message, "on_busy": "queue"}}
        run = RunRecord(new_id("run"), place.id, OWNER, status, request, 1.0, 1.0, "dead", lease)
        first = [] if status == "queued" else [wire.user(message)]
        assert await self.store.create_run(run, first, None if thread else new)
        return run

    async def calls(self, run: RunRecord, *ids: str, status: str = "awaiting_approval") -> None:
        """The model has called `change`; the calls have that status."""
        calls = [(i, "change", '{"text": "x"}') for i in ids]
        known = {
            i: {"id": i, "name": "change", "arguments": ARGUMENTS, "status": status} for i in ids
        }
        addition = Addition({"tool_calls": known, "steps": 1}, [wire.assistant("", calls)])
        await self.store.save_run(run.id, addition)

    async def rests(self, run: RunRecord) -> None:
        found = await self.store.run(run.id)
        assert found is not None
        response = {"thread_id": run.thread_id, "run_id": run.id, "answer": ""}
        response["status"] = "awaiting_approval"
        await self.store.settle_run(
            run.id, "running", "awaiting_approval", Addition(found.progress), response
        )

    async def approval(
        self, run: RunRecord, call_id: str, status: Any = "pending", expires: float = LONG
    ) -> ApprovalRecord:
        approval = ApprovalRecord(
            new_id("appr"), run.id, run.thread_id, OWNER, call_id, "change", ARGUMENTS,
            arguments_hash("change", ARGUMENTS), "because", status, 1.0, expires,
        )  # fmt: skip
        return await self.journal.propose(approval)

    async def began(self, run: RunRecord, call_id: str) -> None:
        digest = arguments_hash("change", ARGUMENTS)
        execution = ExecutionRecord(call_id, run.id, "change", digest, "started", 1.0)
        await self.journal.begin(execution)


@pytest.fixture
def left(tmp_path: Path) -> Left:
    return Left.in_folder(tmp_path)


async def settled(variet: Hands, *runs: RunRecord) -> list[dict[str, Any]]:
    """The runs' responses, once each rests or has ended."""
    registry = variet.orchestrator.runs
    responses = await asyncio.gather(*(registry.wait(run.id) for run in runs))
    return [response.model_dump(mode="json") for response in responses]


async def contents(variet: Hands, thread_id: str) -> Sequence[str]:
    messages = (await variet.client.get(f"/threads/{thread_id}")).json()["messages"]
    return [m["content"] for m in messages]


async def test_queued_runs_start_one_after_the_other(
    left: Left, engine: ScriptedEngine, probe: Probe, tmp_path: Path
) -> None:
    first = await left.run(script({"text": "One."}))
    thread = await left.store.thread(first.thread_id)
    second = await left.run(script({"text": "Two."}), "queued", thread)
    third = await left.run(script({"text": "Three."}), "queued", thread)
    await left.close()
    async with hands(engine.url, tmp_path, probe.server) as variet:
        responses = await settled(variet, first, second, third)
        assert [r["answer"] for r in responses] == ["One.", "Two.", "Three."]
        said = await contents(variet, first.thread_id)
        assert said[1::2] == ["One.", "Two.", "Three."]
        assert len(said) == 6


async def test_a_decision_that_was_written_is_acted_on(
    left: Left, engine: ScriptedEngine, probe: Probe, tmp_path: Path
) -> None:
    run = await left.run(script(CALL, DONE))
    await left.calls(run, "call_1")
    approval = await left.approval(run, "call_1")
    await left.rests(run)
    await left.journal.decide(approval.id, "approved", OWNER, None, None, None)
    await left.close()
    async with hands(engine.url, tmp_path, probe.server) as variet:
        events = await variet.follow(run.id)
        assert events[-1]["data"]["response"]["answer"] == "Done."
        assert probe.calls["change"] == 1


async def test_one_decision_of_two_is_acted_on_and_the_other_still_awaited(
    left: Left, engine: ScriptedEngine, probe: Probe, tmp_path: Path
) -> None:
    run = await left.run(script(CALL, DONE))
    await left.calls(run, "call_1", "call_2")
    first = await left.approval(run, "call_1")
    second = await left.approval(run, "call_2")
    await left.rests(run)
    await left.journal.decide(first.id, "approved", OWNER, None, None, None)
    await left.close()
    async with hands(engine.url, tmp_path, probe.server) as variet:
        (response,) = await settled(variet, run)
        assert response["status"] == "awaiting_approval"
        assert [a["id"] for a in response["approvals"]] == [second.id]
        assert probe.calls["change"] == 1
        body = {"decision": "approve", "wait": True}
        done = await variet.client.post(f"/approvals/{second.id}", json=body)
        assert done.json()["status"] == "completed"
        assert probe.calls["change"] == 2


async def test_an_approval_that_expired_meanwhile_lets_its_run_go_on(
    left: Left, engine: ScriptedEngine, probe: Probe, tmp_path: Path
) -> None:
    run = await left.run(script(CALL, DONE))
    await left.calls(run, "call_1")
    await left.approval(run, "call_1", expires=time.time() - 1)
    await left.rests(run)
    await left.close()
    async with hands(engine.url, tmp_path, probe.server) as variet:
        await variet.orchestrator.approvals.expire()
        (response,) = await settled(variet, run)
        assert response["tool_calls"][0]["error"]["code"] == "expired"
        assert probe.calls["change"] == 0


async def test_a_proposal_that_was_written_is_not_made_twice(
    left: Left, engine: ScriptedEngine, probe: Probe, tmp_path: Path
) -> None:
    run = await left.run(script(CALL, DONE))
    await left.calls(run, "call_1", status="proposed")
    approval = await left.approval(run, "call_1")
    await left.close()
    async with hands(engine.url, tmp_path, probe.server) as variet:
        events = await variet.follow(run.id)
        told = [e["data"]["id"] for e in events if e["type"] == "approval"]
        assert told == [approval.id]
        listed = (await variet.client.get("/approvals")).json()["items"]
        assert [a["id"] for a in listed] == [approval.id]


async def test_an_execution_that_began_is_told_and_not_repeated(
    left: Left, engine: ScriptedEngine, probe: Probe, tmp_path: Path
) -> None:
    run = await left.run(script(CALL, DONE))
    await left.calls(run, "call_1", status="running")
    await left.approval(run, "call_1", "approved")
    await left.began(run, "call_1")
    await left.close()
    async with hands(engine.url, tmp_path, probe.server) as variet:
        (response,) = await settled(variet, run)
        assert response["status"] == "completed"
        assert response["tool_calls"][0]["status"] == "indeterminate"
        assert probe.calls["change"] == 0


async def test_a_result_that_was_written_is_used_although_its_tool_is_gone(
    left: Left, engine: ScriptedEngine, probe: Probe, tmp_path: Path
) -> None:
    run = await left.run(script(CALL, DONE))
    await left.calls(run, "call_1", status="running")
    await left.approval(run, "call_1", "approved")
    await left.began(run, "call_1")
    await left.journal.finish("call_1", "finished", {"result": {"text": "kept"}})
    await left.close()
    async with hands(engine.url, tmp_path) as variet:
        (response,) = await settled(variet, run)
        assert response["tool_calls"][0]["result"] == {"text": "kept"}
        assert '"kept"' in (await contents(variet, run.thread_id))[2]
        assert variet.orchestrator.toolbox.tools == {}
        assert probe.calls["change"] == 0


@pytest.mark.parametrize("began", [False, True])
async def test_a_tool_called_by_hand_is_recovered_under_the_same_rules(
    left: Left, engine: ScriptedEngine, probe: Probe, tmp_path: Path, began: bool
) -> None:
    run = await left.run("", "queued")
    direct = replace(
        run,
        id=new_id("run"),
        status="running",
        request={"direct": {"name": "change", "arguments": ARGUMENTS}},
    )
    call = wire.assistant("", [("call_1", "change", '{"text": "x"}')])
    assert await left.store.create_run(direct, [wire.user("change by hand"), call])
    await left.approval(direct, "call_1", "approved")
    if began:
        await left.began(direct, "call_1")
    await left.close()
    async with hands(engine.url, tmp_path, probe.server) as variet:
        (response,) = await settled(variet, direct)
        status = response["tool_calls"][0]["status"]
        assert (status, probe.calls["change"]) == (
            ("indeterminate", 0) if began else ("finished", 1)
        )


async def test_a_run_that_had_its_answer_is_completed_with_it(
    left: Left, engine: ScriptedEngine, probe: Probe, tmp_path: Path
) -> None:
    run = await left.run("Hello")
    answer = Addition({"answer": "Hi.", "steps": 1}, [wire.assistant("Hi.")])
    await left.store.save_run(run.id, answer)
    await left.close()
    async with hands(engine.url, tmp_path, probe.server) as variet:
        (response,) = await settled(variet, run)
        assert (response["status"], response["answer"]) == ("completed", "Hi.")
        assert await contents(variet, run.thread_id) == ["Hello", "Hi."]


async def test_a_run_that_crashes_the_process_again_and_again_is_given_up(
    left: Left, engine: ScriptedEngine, probe: Probe, tmp_path: Path
) -> None:
    run = await left.run(script(CALL, DONE))
    thread = await left.store.thread(run.thread_id)
    waiting = await left.run(script({"text": "Next."}), "queued", thread)
    await left.calls(run, "call_1")
    approval = await left.approval(run, "call_1")
    for n in range(MAX_RECOVERIES):
        await left.store.claim_orphans(f"dead {n}", 1.0, LONG)
    await left.close()
    async with hands(engine.url, tmp_path, probe.server) as variet:
        failed, following = await settled(variet, run, waiting)
        assert failed["error"]["code"] == "crashed_repeatedly"
        assert failed["tool_calls"][0]["status"] == "rejected"
        assert following["answer"] == "Next."
        late = await variet.client.post(f"/approvals/{approval.id}", json={"decision": "approve"})
        assert late.status_code == 409
        assert probe.calls["change"] == 0


async def test_a_run_that_was_handed_over_often_is_not_given_up(
    left: Left, engine: ScriptedEngine, probe: Probe, tmp_path: Path
) -> None:
    run = await left.run(script(DONE))
    for n in range(MAX_RECOVERIES + 3):
        await left.store.release(run.id)
        await left.store.claim_orphans(f"restarted {n}", 1.0, LONG)
    await left.close()
    async with hands(engine.url, tmp_path, probe.server) as variet:
        assert (await settled(variet, run))[0]["status"] == "completed"


async def test_a_run_that_was_asked_to_stop_is_stopped(
    left: Left, engine: ScriptedEngine, probe: Probe, tmp_path: Path
) -> None:
    run = await left.run(script(DONE))
    await left.store.request_stop(run.id)
    await left.close()
    async with hands(engine.url, tmp_path, probe.server) as variet:
        assert (await settled(variet, run))[0]["status"] == "stopped"


async def test_a_call_that_nobody_has_looked_at_yet_is_rejected_by_a_stop(
    left: Left, engine: ScriptedEngine, probe: Probe, tmp_path: Path
) -> None:
    run = await left.run(script(CALL, DONE))
    proposal = wire.assistant("", [("call_1", "change", '{"text": "x"}')])
    await left.store.save_run(run.id, Addition({}, [proposal]))
    await left.store.request_stop(run.id)
    await left.close()
    async with hands(engine.url, tmp_path, probe.server) as variet:
        (response,) = await settled(variet, run)
        assert response["status"] == "stopped"
        (call,) = response["tool_calls"]
        assert (call["name"], call["arguments"]) == ("change", ARGUMENTS)
        assert call["status"] == "rejected"
        assert "was not executed" in (await contents(variet, run.thread_id))[2]


async def test_a_run_that_cannot_be_read_is_ended_and_keeps_no_other_down(
    left: Left, engine: ScriptedEngine, probe: Probe, tmp_path: Path
) -> None:
    broken = await left.run("")  # no request that would pass today
    run = await left.run(script(DONE))
    await left.close()
    async with hands(engine.url, tmp_path, probe.server) as variet:
        done, failed = await settled(variet, run, broken)
        assert done["status"] == "completed"
        assert failed["error"]["code"] == "unreadable_run"
        again = await variet.ask(script(DONE), thread_id=broken.thread_id)
        assert again["status"] == "completed"


async def test_event_numbers_leap_over_those_that_were_shown_and_lost(
    left: Left, engine: ScriptedEngine, probe: Probe, tmp_path: Path
) -> None:
    run = await left.run(script({"text": "After all."}))
    shown = [{"id": i, "type": "token", "data": {"text": "x"}} for i in (1, 2)]
    await left.store.append_events(run.id, EventBlock(1, 2, shown))
    await left.close()
    async with hands(engine.url, tmp_path, probe.server) as variet:
        # The client saw up to number 40 before the crash; only 2 of them were stored.
        events = await variet.follow(run.id, after=40)
        assert min(e["id"] for e in events) > 100_000
        assert next(e["data"]["name"] for e in events if e["type"] == "stage") == "recovery"
        assert events[-1]["data"]["response"]["answer"] == "After all."
        whole = [e["id"] for e in await variet.follow(run.id)]
        assert whole == sorted(set(whole))
        assert whole[:2] == [1, 2]


async def test_numbers_also_leap_when_a_resting_run_goes_on_in_another_process(
    left: Left, engine: ScriptedEngine, probe: Probe, tmp_path: Path
) -> None:
    run = await left.run(script(CALL, DONE))
    await left.calls(run, "call_1")
    approval = await left.approval(run, "call_1")
    await left.rests(run)
    await left.close()
    async with hands(engine.url, tmp_path, probe.server) as variet:
        body = {"decision": "approve", "wait": True}
        await variet.client.post(f"/approvals/{approval.id}", json=body)
        events = await variet.follow(run.id)
        assert min(e["id"] for e in events) > 100_000
