"""Stops, decisions and interruptions at the worst moment: held there by gates, not by luck."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from contracts.chat import ApprovalDecision, ChatRequest
from contracts.errors import NotFound, StoreError
from orchestrator.agent.admission import title_of
from orchestrator.agent.drives import Drives
from orchestrator.store.database import Database
from tests.support.hands import Hands
from tests.support.probe_tools import Probe
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripted_reply import script

OWNER = "local"
DONE = {"text": "Done."}
APPROVE = ApprovalDecision(decision="approve")


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"tool_calls": [{"name": name, "arguments": arguments}]}


CHANGE = call("change", text="x")
HANG = call("hang")


class Gate:
    """Holds an async method of an object where it begins, until it is opened."""

    def __init__(self, owner: object, name: str, patch: pytest.MonkeyPatch) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        original = getattr(owner, name)

        async def held(*arguments: Any, **options: Any) -> Any:
            self.reached.set()
            await self.opened.wait()
            return await original(*arguments, **options)

        patch.setattr(owner, name, held)


async def submit(variet: Hands, message: str, **more: Any) -> str:
    return await variet.orchestrator.runs.submit(ChatRequest(message=message, **more), OWNER)


async def thread_of(variet: Hands, run_id: str) -> str:
    run = await variet.orchestrator.store.run(run_id)
    assert run is not None
    return run.thread_id


async def status(variet: Hands, run_id: str) -> str:
    run = await variet.orchestrator.store.run(run_id)
    assert run is not None
    return run.status


async def said(variet: Hands, thread_id: str) -> list[tuple[str, str]]:
    messages = await variet.orchestrator.store.messages(thread_id)
    return [(m.body["role"], m.body["content"]) for m in messages]


async def resting(variet: Hands, *replies: dict[str, Any]) -> tuple[str, str]:
    """A run that awaits an approval, and that approval."""
    run_id = await submit(variet, script(*replies))
    response = await variet.orchestrator.runs.wait(run_id)
    (approval,) = response.approvals
    return run_id, approval.id


# Stops


async def test_a_run_is_stopped_before_its_task_has_begun(variet: Hands) -> None:
    runs = variet.orchestrator.runs
    run_id = await submit(variet, script({"tokens": 50, "delay_ms": 20}))
    # Nothing has yielded to the loop since: the task exists and has not run a line.
    assert await asyncio.wait_for(runs.stop(run_id), 10) == "stopped"
    assert (await runs.wait(run_id)).status == "stopped"
    assert runs.active == 0


async def test_many_stops_at_once_are_one(variet: Hands, probe: Probe) -> None:
    runs = variet.orchestrator.runs
    run_id = await submit(variet, script(HANG, DONE))
    await probe.started.wait()
    assert await asyncio.gather(*(runs.stop(run_id) for _ in range(5))) == ["stopped"] * 5
    assert await runs.stop(run_id) == "stopped"
    events = await variet.follow(run_id)
    assert [e["type"] for e in events].count("end") == 1


async def test_many_stops_of_a_resting_run_are_one(variet: Hands, probe: Probe) -> None:
    runs = variet.orchestrator.runs
    run_id, approval_id = await resting(variet, CHANGE, DONE)
    assert await asyncio.gather(*(runs.stop(run_id) for _ in range(5))) == ["stopped"] * 5
    events = await variet.follow(run_id)
    assert [e["data"]["status"] for e in events if e["type"] == "end"] == [
        "awaiting_approval",
        "stopped",
    ]
    late = await variet.client.post(f"/approvals/{approval_id}", json={"decision": "approve"})
    assert late.status_code == 409
    assert probe.calls["change"] == 0
    again = await variet.ask(script(DONE), thread_id=await thread_of(variet, run_id))
    assert again["answer"] == "Done."


async def test_a_queued_run_is_stopped_without_touching_the_one_before_it(
    variet: Hands, probe: Probe
) -> None:
    first = await submit(variet, script(HANG, DONE))
    await probe.started.wait()
    thread_id = await thread_of(variet, first)
    queued = await submit(variet, "Never asked.", thread_id=thread_id, on_busy="queue")
    before = await said(variet, thread_id)
    assert await variet.orchestrator.runs.stop(queued) == "stopped"
    assert await said(variet, thread_id) == before
    assert [e["type"] for e in await variet.follow(queued)] == ["end"]
    probe.release.set()
    assert (await variet.orchestrator.runs.wait(first)).answer == "Done."
    assert [role for role, _ in await said(variet, thread_id)] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]


async def test_a_stop_while_a_run_comes_to_rest_is_not_lost(
    variet: Hands, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    orchestrator = variet.orchestrator
    gate = Gate(orchestrator.store, "settle_run", monkeypatch)
    run_id = await submit(variet, script(CHANGE, DONE))
    await gate.reached.wait()
    stopping = asyncio.create_task(orchestrator.runs.stop(run_id))
    await asyncio.sleep(0)
    gate.opened.set()
    assert await asyncio.wait_for(stopping, 10) == "stopped"
    assert await orchestrator.approvals.pending(OWNER) == []
    assert probe.calls["change"] == 0


async def test_a_stop_while_a_run_completes_leaves_it_completed(
    variet: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(variet.orchestrator.store, "settle_run", monkeypatch)
    run_id = await submit(variet, script(DONE))
    await gate.reached.wait()
    stopping = asyncio.create_task(variet.orchestrator.runs.stop(run_id))
    await asyncio.sleep(0)
    gate.opened.set()
    assert await asyncio.wait_for(stopping, 10) == "completed"
    assert await said(variet, await thread_of(variet, run_id)) == [
        ("user", script(DONE)),
        ("assistant", "Done."),
    ]


async def test_a_stop_in_a_tool_tells_the_thread_what_is_not_known(
    variet: Hands, probe: Probe
) -> None:
    run_id = await submit(variet, script(HANG, DONE))
    await probe.started.wait()
    await variet.orchestrator.runs.stop(run_id)
    response = await variet.orchestrator.runs.wait(run_id)
    assert response.tool_calls[0].status == "indeterminate"
    messages = await said(variet, await thread_of(variet, run_id))
    assert "may or may not have taken effect" in messages[2][1]
    assert messages[-1] == ("assistant", "[stopped]")


async def test_a_stop_after_a_tool_was_done_keeps_its_result(
    variet: Hands, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(variet.orchestrator.parts.journal, "finish", monkeypatch)
    run_id = await submit(variet, script(call("look", text="seen"), DONE))
    await gate.reached.wait()
    stopping = asyncio.create_task(variet.orchestrator.runs.stop(run_id))
    await asyncio.sleep(0)
    gate.opened.set()
    await stopping
    assert probe.calls["look"] == 1
    messages = await said(variet, await thread_of(variet, run_id))
    assert messages[2][0] == "tool"
    assert messages[-1][0] == "assistant"


async def test_a_stop_while_the_answer_is_structured_adds_no_second_answer(
    variet: Hands, engine: ScriptedEngine
) -> None:
    engine.script(DONE, {"fault": "hang"})
    asked = engine.received + 2
    run_id = await submit(variet, "hi", response_schema={"type": "object"})
    await engine.wait_for(requests=asked)
    await variet.orchestrator.runs.stop(run_id)
    assert await said(variet, await thread_of(variet, run_id)) == [
        ("user", "hi"),
        ("assistant", "Done."),
    ]


async def test_work_that_is_cancelled_from_within_is_a_failure_and_not_a_silence(
    variet: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cancelled(*_: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(variet.orchestrator.toolbox, "call", cancelled)
    response = await variet.ask(script(call("look", text="x"), DONE))
    assert (response["status"], response["error"]["code"]) == ("failed", "internal")
    assert response["tool_calls"][0]["status"] == "indeterminate"
    monkeypatch.undo()
    again = await variet.ask(script(DONE), thread_id=response["thread_id"])
    assert again["answer"] == "Done."


async def test_a_tool_whose_connection_breaks_is_told_to_the_model(
    variet: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise ConnectionResetError("gone")

    monkeypatch.setattr(variet.orchestrator.toolbox, "call", broken)
    response = await variet.ask(script(call("look", text="x"), DONE))
    assert response["answer"] == "Done."
    assert response["tool_calls"][0]["status"] == "indeterminate"


# Decisions


async def test_a_decision_while_the_run_comes_to_rest_lets_it_go_on_at_once(
    variet: Hands, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    orchestrator = variet.orchestrator
    gate = Gate(orchestrator.store, "settle_run", monkeypatch)
    run_id = await submit(variet, script(CHANGE, DONE))
    await gate.reached.wait()
    (approval,) = await orchestrator.approvals.pending(OWNER)
    await orchestrator.approvals.decide(approval.id, OWNER, APPROVE)
    waiting = asyncio.create_task(orchestrator.runs.wait(run_id))
    await asyncio.sleep(0)
    gate.opened.set()
    response = await asyncio.wait_for(waiting, 10)
    assert (response.status, response.answer) == ("completed", "Done.")
    assert probe.calls["change"] == 1


async def test_a_decision_before_the_run_comes_to_rest_saves_the_rest(
    variet: Hands, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    orchestrator = variet.orchestrator
    gate = Gate(orchestrator.parts.journal, "approvals_of", monkeypatch)
    run_id = await submit(variet, script(CHANGE, DONE))
    await gate.reached.wait()
    (approval,) = await orchestrator.approvals.pending(OWNER)
    await orchestrator.approvals.decide(approval.id, OWNER, APPROVE)
    gate.opened.set()
    events = await variet.follow(run_id)
    assert [e["data"]["status"] for e in events if e["type"] == "end"] == ["completed"]
    assert probe.calls["change"] == 1


async def test_three_calls_decided_one_by_one_at_once_all_run(variet: Hands, probe: Probe) -> None:
    calls = [{"name": "change", "arguments": {"text": t}} for t in "abc"]
    run_id = await submit(variet, script({"tool_calls": calls}, DONE))
    response = await variet.orchestrator.runs.wait(run_id)
    decide = variet.orchestrator.approvals.decide
    await asyncio.gather(*(decide(a.id, OWNER, APPROVE) for a in response.approvals))
    while (response := await variet.orchestrator.runs.wait(run_id)).status != "completed":
        await variet.orchestrator.runs.catch_up()
    assert [c.status for c in response.tool_calls] == ["finished"] * 3
    assert probe.calls["change"] == 3


async def test_an_approval_and_a_stop_at_once_agree(variet: Hands, probe: Probe) -> None:
    orchestrator = variet.orchestrator
    for _ in range(10):
        before = probe.calls["change"]
        run_id, approval_id = await resting(variet, CHANGE, DONE)
        decided, stopped = await asyncio.gather(
            orchestrator.approvals.decide(approval_id, OWNER, APPROVE),
            orchestrator.runs.stop(run_id),
            return_exceptions=True,
        )
        ended = await orchestrator.runs.wait(run_id)
        assert ended.status in ("stopped", "completed")
        assert stopped == ended.status
        ran = probe.calls["change"] - before
        assert ran <= (0 if isinstance(decided, Exception) else 1)
        if ended.tool_calls[0].status == "rejected":
            assert ran == 0


async def test_a_run_that_fails_leaves_no_approval_behind(
    variet: Hands, probe: Probe, engine: ScriptedEngine
) -> None:
    malformed = {"name": "look", "arguments": "{"}
    both = {"tool_calls": [{"name": "change", "arguments": {"text": "x"}}, malformed]}
    response = await variet.ask(script({"tool_calls": [malformed]}, both, DONE))
    assert response["error"]["code"] == "malformed_tool_call"
    assert (await variet.client.get("/approvals")).json()["items"] == []
    assert {c["status"] for c in response["tool_calls"]} == {"failed", "rejected"}
    assert probe.calls["change"] == 0


async def test_a_decision_whose_run_was_not_continued_is_caught_up_with(
    variet: Hands, probe: Probe
) -> None:
    run_id, approval_id = await resting(variet, CHANGE, DONE)
    journal = variet.orchestrator.parts.journal
    assert await journal.decide(approval_id, "approved", OWNER, None, None, None)
    await variet.orchestrator.runs.catch_up()
    assert (await variet.orchestrator.runs.wait(run_id)).answer == "Done."
    assert probe.calls["change"] == 1


# Busy threads


async def test_an_interrupting_message_goes_before_those_in_line(
    variet: Hands, probe: Probe
) -> None:
    first = await submit(variet, script(HANG, DONE))
    await probe.started.wait()
    thread_id = await thread_of(variet, first)
    lined_up = [
        await submit(variet, script({"text": t}), thread_id=thread_id, on_busy="queue")
        for t in ("Second.", "Third.")
    ]
    urgent = await submit(
        variet, script({"text": "Urgent."}), thread_id=thread_id, on_busy="interrupt"
    )
    runs = variet.orchestrator.runs
    ended = [await runs.wait(run_id) for run_id in (first, urgent, *lined_up)]
    assert [r.status for r in ended] == ["stopped", "completed", "completed", "completed"]
    answers = [text for role, text in await said(variet, thread_id) if role == "assistant"]
    assert answers == ["", "[stopped]", "Urgent.", "Second.", "Third."]


async def test_of_two_interruptions_each_is_answered_or_stopped(
    variet: Hands, probe: Probe
) -> None:
    first = await submit(variet, script(HANG, DONE))
    await probe.started.wait()
    thread_id = await thread_of(variet, first)
    asked = [
        submit(variet, script({"text": t}), thread_id=thread_id, on_busy="interrupt")
        for t in ("One.", "Two.")
    ]
    others = await asyncio.gather(*asked)
    runs = variet.orchestrator.runs
    ended = [await runs.wait(run_id) for run_id in others]
    assert (await runs.wait(first)).status == "stopped"
    assert ended[-1].status == "completed"
    assert {r.status for r in ended} <= {"stopped", "completed"}
    assert await variet.orchestrator.store.live_run(thread_id) is None
    assert await variet.orchestrator.store.queued_runs(thread_id) == []


async def test_an_interruption_rejects_the_approval_that_is_awaited(
    variet: Hands, probe: Probe
) -> None:
    run_id, _ = await resting(variet, CHANGE, DONE)
    thread_id = await thread_of(variet, run_id)
    other = await submit(variet, script(DONE), thread_id=thread_id, on_busy="interrupt")
    assert (await variet.orchestrator.runs.wait(other)).status == "completed"
    assert await status(variet, run_id) == "stopped"
    assert probe.calls["change"] == 0


async def test_a_refused_message_leaves_nothing_behind(variet: Hands, probe: Probe) -> None:
    first = await submit(variet, script(HANG, DONE))
    await probe.started.wait()
    thread_id = await thread_of(variet, first)
    before = await said(variet, thread_id)
    refused = await variet.client.post("/chat", json={"message": "hi", "thread_id": thread_id})
    assert refused.status_code == 409
    assert await said(variet, thread_id) == before
    assert len(await variet.orchestrator.store.runs(OWNER, 10)) == 1
    probe.release.set()


async def test_an_unknown_thread_is_not_found_even_if_it_goes_in_between(
    variet: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = await variet.ask(script(DONE))
    gate = Gate(variet.orchestrator.store, "create_run", monkeypatch)
    asking = asyncio.create_task(submit(variet, "hi", thread_id=answer["thread_id"]))
    await gate.reached.wait()
    assert await variet.orchestrator.delete_threads([answer["thread_id"]]) == 1
    gate.opened.set()
    with pytest.raises(NotFound, match=answer["thread_id"]):
        await asking


# Followers


async def test_a_follower_goes_from_the_line_to_the_live_log(variet: Hands, probe: Probe) -> None:
    first = await submit(variet, script(HANG, DONE))
    await probe.started.wait()
    thread_id = await thread_of(variet, first)
    queued = await submit(variet, script(DONE), thread_id=thread_id, on_busy="queue")
    following = asyncio.create_task(variet.follow(queued))
    waiting = asyncio.create_task(variet.orchestrator.runs.wait(queued))
    probe.release.set()
    events = await asyncio.wait_for(following, 10)
    assert events[-1]["data"]["status"] == "completed"
    assert (await asyncio.wait_for(waiting, 10)).answer == "Done."


async def test_a_follower_that_arrives_while_the_end_is_written_gets_it(
    variet: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(variet.orchestrator.store, "settle_run", monkeypatch)
    run_id = await submit(variet, script(DONE))
    await gate.reached.wait()
    following = asyncio.create_task(variet.follow(run_id))
    await asyncio.sleep(0)
    gate.opened.set()
    events = await asyncio.wait_for(following, 10)
    assert [e["type"] for e in events].count("end") == 1
    assert events[-1]["type"] == "end"
    assert await variet.follow(run_id) == events


# A store that fails


class Full:
    """Lets a database grow no further, as a full disk would; `free` makes room again."""

    def __init__(self, database: Database) -> None:
        self._database = database
        (pages,) = database.row("PRAGMA page_count") or (0,)
        self._limit(pages)

    def free(self) -> None:
        self._limit(1_000_000)

    def _limit(self, pages: int) -> None:
        self._database.rows(f"PRAGMA max_page_count={pages}")


def database_of(store: Any) -> Database:
    database = store._db
    assert isinstance(database, Database)
    return database


async def test_a_disk_that_fills_up_is_told_and_the_thread_lives_on(variet: Hands) -> None:
    first = await variet.ask(script(DONE))
    full = Full(database_of(variet.orchestrator.store))
    body = {"message": script({"text": "x" * 100_000}), "thread_id": first["thread_id"]}
    refused = await variet.client.post("/chat", json=body)
    while refused.status_code == 200:
        refused = await variet.client.post("/chat", json=body)
    assert refused.status_code == 500
    error = refused.json()["error"]
    assert error["code"] == "store_full"
    assert "variet.db" in error["message"]
    assert "Free space" in error["remedy"]
    full.free()
    await variet.orchestrator.runs.renew()
    again = await variet.ask(script(DONE), thread_id=first["thread_id"])
    assert again["answer"] == "Done."


async def test_a_run_whose_end_cannot_be_written_is_ended_when_there_is_room(
    variet: Hands, probe: Probe, engine: ScriptedEngine
) -> None:
    engine.script(HANG, {"text": "x" * 100_000})
    run_id = await submit(variet, "hi")
    await probe.started.wait()
    full = Full(database_of(variet.orchestrator.store))
    waiting = asyncio.create_task(variet.orchestrator.runs.wait(run_id))
    events = variet.orchestrator.runs.follow(run_id)
    assert (first := await anext(events)) is not None
    assert first.type == "run"
    probe.release.set()
    with pytest.raises(StoreError, match=r"variet\.db"):
        await asyncio.wait_for(waiting, 10)
    told = [event async for event in events if event and event.type == "error"]
    assert [b"store_full" in event.data for event in told if event] == [True]
    assert await status(variet, run_id) == "running"
    full.free()
    await variet.orchestrator.runs.renew()
    response = await variet.orchestrator.runs.wait(run_id)
    assert (response.status, response.error and response.error.code) == ("failed", "store_full")
    messages = await said(variet, await thread_of(variet, run_id))
    assert [role for role, _ in messages] == ["user", "assistant", "tool", "assistant"]


async def test_nothing_is_executed_that_the_journal_could_not_write(
    variet: Hands, probe: Probe
) -> None:
    full = Full(database_of(variet.orchestrator.parts.journal))
    response = None
    while response is None or response["status"] == "completed":
        response = await variet.ask(script(call("look", text="x" * 3_000), DONE))
    assert response["status"] == "failed"
    assert response["error"]["code"] == "store_full"
    assert "journal.db" in response["error"]["message"]
    full.free()
    executed = probe.calls["look"]
    journal = variet.orchestrator.parts.journal
    runs = await variet.orchestrator.store.runs(OWNER, 100)
    begun = [e for run in runs for e in await journal.executions_of(run.id)]
    assert len(begun) >= executed


# Small things


@pytest.mark.parametrize(
    ("message", "title"),
    [
        ("Hello", "Hello"),
        ("  \n\n  Hello\tthere  \nmore", "Hello there"),
        (" \n\t ", "(empty)"),
        ("x" * 81, "x" * 79 + "…"),
        ("x" * 80, "x" * 80),
    ],
)
def test_a_thread_is_titled_by_its_first_line(message: str, title: str) -> None:
    assert title_of(message) == title


async def test_a_message_of_blanks_makes_a_thread_with_a_title(variet: Hands) -> None:
    await variet.ask(" ")
    (thread,) = (await variet.client.get("/threads")).json()["items"]
    assert thread["title"] == "(empty)"


async def test_news_wake_those_who_took_them_before() -> None:
    async def nothing(_: object) -> None: ...

    parts: Any = None
    accept: Callable[..., Any] = nothing
    drives = Drives(parts, accept)
    news = drives.news
    drives.tell()
    assert news.is_set()
    assert not drives.news.is_set()
