"""Approvals over HTTP: ask before anything changes, once, by its owner, for exactly this call."""

import asyncio
from pathlib import Path
from typing import Any

from tests.support.hands import Hands, hands
from tests.support.probe_tools import Probe
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripted_reply import script


def change(text: str = "x") -> dict[str, Any]:
    return {"tool_calls": [{"name": "change", "arguments": {"text": text}}]}


async def decide(variet: Hands, approval_id: str, **body: Any) -> Any:
    return await variet.client.post(f"/approvals/{approval_id}", json=body)


async def asked(variet: Hands, *replies: dict[str, Any]) -> dict[str, Any]:
    answer = await variet.ask(script(*replies))
    assert answer["status"] == "awaiting_approval"
    return answer


async def test_a_changing_call_rests_until_it_is_approved(variet: Hands, probe: Probe) -> None:
    answer = await asked(variet, change("a"), {"text": "Changed."})
    (approval,) = answer["approvals"]
    assert probe.calls["change"] == 0
    assert (approval["tool"], approval["arguments"]) == ("change", {"text": "a"})
    assert len(approval["arguments_hash"]) == 64
    listed = (await variet.client.get("/approvals")).json()["items"]
    assert listed == [approval]
    done = (await decide(variet, approval["id"], decision="approve", wait=True)).json()
    assert (done["run_id"], done["status"]) == (answer["run_id"], "completed")
    assert done["answer"] == "Changed."
    assert done["tool_calls"][0]["result"] == {"text": "a", "count": 1}
    assert (await variet.client.get("/approvals")).json()["items"] == []


async def test_a_rejected_call_is_told_to_the_model_and_never_runs(
    variet: Hands, probe: Probe, engine: ScriptedEngine
) -> None:
    answer = await asked(variet, change(), {"text": "As you wish."})
    body = {"decision": "reject", "comment": "not today", "wait": True}
    done = (await decide(variet, answer["approvals"][0]["id"], **body)).json()
    assert done["answer"] == "As you wish."
    assert done["tool_calls"][0]["status"] == "rejected"
    assert "not today" in engine.calls[-1].body["messages"][-1]["content"]
    assert probe.calls["change"] == 0


async def test_edited_arguments_are_checked_and_used(variet: Hands) -> None:
    answer = await asked(variet, change("a"), {"text": "Changed."})
    approval = answer["approvals"][0]["id"]
    wrong = await decide(variet, approval, decision="edit", arguments={"text": 5})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (422, "bad_arguments")
    missing = await decide(variet, approval, decision="edit")
    assert missing.status_code == 422
    done = await decide(variet, approval, decision="edit", arguments={"text": "b"}, wait=True)
    assert done.json()["tool_calls"][0]["result"]["text"] == "b"


async def test_of_two_answers_at_once_one_wins(variet: Hands, probe: Probe) -> None:
    answer = await asked(variet, change(), {"text": "Changed."})
    approval = answer["approvals"][0]["id"]
    both = await asyncio.gather(
        decide(variet, approval, decision="approve"), decide(variet, approval, decision="reject")
    )
    assert sorted(a.status_code for a in both) == [200, 409]
    late = await decide(variet, approval, decision="approve")
    assert late.json()["error"]["code"] == "already_decided"
    await variet.follow(answer["run_id"])
    assert probe.calls["change"] <= 1


async def test_the_stream_goes_on_with_the_same_run_and_numbers(variet: Hands) -> None:
    events = await variet.events(script(change(), {"text": "Changed."}))
    assert events[-1]["data"]["status"] == "awaiting_approval"
    approval = next(e for e in events if e["type"] == "approval")["data"]["id"]
    await decide(variet, approval, decision="approve", wait=True)
    more = await variet.follow(events[0]["data"]["run_id"], events[-1]["id"])
    assert more[0]["id"] > events[-1]["id"]
    assert more[-1]["data"]["status"] == "completed"
    assert [e["type"] for e in more].count("end") == 1


async def test_two_changes_in_one_message_are_approved_one_by_one(
    variet: Hands, probe: Probe
) -> None:
    calls = [{"name": "change", "arguments": {"text": t}} for t in "ab"]
    answer = await asked(variet, {"tool_calls": calls}, {"text": "Both."})
    first, second = answer["approvals"]
    rests = (await decide(variet, first["id"], decision="approve", wait=True)).json()
    assert rests["status"] == "awaiting_approval"
    assert probe.calls["change"] == 1
    done = (await decide(variet, second["id"], decision="approve", wait=True)).json()
    assert (done["status"], probe.calls["change"]) == ("completed", 2)


async def test_a_busy_thread_refuses_and_interrupt_rejects_the_approval(
    variet: Hands, probe: Probe
) -> None:
    answer = await asked(variet, change(), {"text": "never"})
    thread = answer["thread_id"]
    refused = await variet.client.post("/chat", json={"message": "hi", "thread_id": thread})
    assert refused.status_code == 409
    assert "awaits an approval" in refused.json()["error"]["message"]
    other = await variet.ask(script({"text": "Else."}), thread_id=thread, on_busy="interrupt")
    assert other["answer"] == "Else."
    late = await decide(variet, answer["approvals"][0]["id"], decision="approve")
    assert late.status_code == 409
    assert probe.calls["change"] == 0


async def test_an_expired_approval_counts_as_rejected(
    engine: ScriptedEngine, probe: Probe, tmp_path: Path
) -> None:
    async with hands(engine.url, tmp_path, probe.server, approval_ttl_s=1e-6) as variet:
        answer = await asked(variet, change(), {"text": "Too late."})
        late = await decide(variet, answer["approvals"][0]["id"], decision="approve")
        assert (late.status_code, late.json()["error"]["code"]) == (409, "approval_expired")
        events = await variet.follow(answer["run_id"])
        assert events[-1]["data"]["response"]["answer"] == "Too late."
        assert probe.calls["change"] == 0


async def test_a_tool_by_hand_is_under_the_same_policy(variet: Hands, probe: Probe) -> None:
    done = await variet.client.post(
        "/tools/execute", json={"name": "look", "arguments": {"text": "t"}}
    )
    assert (done.status_code, done.json()) == (200, {"result": {"text": "t", "count": 1}})
    body = {"name": "change", "arguments": {"text": "t"}}
    pending = await variet.client.post("/tools/execute", json=body)
    assert pending.status_code == 202
    approval = pending.json()["approval"]
    assert probe.calls["change"] == 0
    ended = await decide(variet, approval["id"], decision="approve", wait=True)
    assert ended.json()["tool_calls"][0]["result"]["text"] == "t"
    wrong = await variet.client.post("/tools/execute", json={"name": "look", "arguments": {}})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (422, "bad_arguments")
    unknown = await variet.client.post("/tools/execute", json={"name": "nope"})
    assert unknown.status_code == 404
