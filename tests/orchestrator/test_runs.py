"""Runs over real HTTP against a scripted engine: answers, events, stops, busy threads, faults."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from contracts.events import DATA_MODELS
from tests.support.hands import Hands, hands, read_events
from tests.support.probe_tools import Probe
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripted_reply import script


def look(text: str = "x") -> dict[str, object]:
    return {"tool_calls": [{"name": "look", "arguments": {"text": text}}]}


def change(text: str = "x") -> dict[str, object]:
    return {"tool_calls": [{"name": "change", "arguments": {"text": text}}]}


async def test_a_plain_answer_has_text_usage_and_a_model(variet: Hands) -> None:
    answer = await variet.ask(script({"text": "It is fine."}))
    assert (answer["status"], answer["answer"]) == ("completed", "It is fine.")
    assert answer["usage"]["completion_tokens"] > 0
    assert answer["model"] == "scripted"
    assert answer["latency_ms"] >= 0


async def test_a_tool_call_is_executed_and_its_result_reaches_the_model(
    variet: Hands, engine: ScriptedEngine
) -> None:
    answer = await variet.ask(script(look("boost"), {"text": "Done."}))
    (call,) = answer["tool_calls"]
    assert (call["name"], call["status"], call["arguments"]) == (
        "look",
        "finished",
        {"text": "boost"},
    )
    assert call["result"] == {"text": "boost", "count": 1}
    assert answer["answer"] == "Done."
    tool_message = engine.calls[-1].body["messages"][-1]
    assert tool_message["role"] == "tool"
    assert '"text": "boost"' in tool_message["content"]


async def test_events_are_numbered_typed_and_end_once(variet: Hands) -> None:
    events = await variet.events(script(look(), {"text": "one two"}))
    ids = [e["id"] for e in events]
    assert ids == sorted(set(ids))
    for event in events:
        DATA_MODELS[event["type"]].model_validate(event["data"])
    assert [e["type"] for e in events].count("end") == 1
    assert events[-1]["type"] == "end"
    assert "".join(e["data"]["text"] for e in events if e["type"] == "token") == "one two"


async def test_a_stream_is_resumed_after_the_last_event_id(variet: Hands) -> None:
    events = await variet.events(script({"text": "a b c d"}))
    run_id = events[0]["data"]["run_id"]
    middle = events[len(events) // 2]["id"]
    again = await variet.follow(run_id, middle)
    assert again == [e for e in events if e["id"] > middle]


async def test_follow_up_messages_carry_the_history(variet: Hands, engine: ScriptedEngine) -> None:
    first = await variet.ask(script({"text": "First."}))
    await variet.ask("And then?", thread_id=first["thread_id"])
    roles = [m["role"] for m in engine.calls[-1].body["messages"]]
    assert roles == ["system", "user", "assistant", "user"]


async def test_stop_reaches_the_engine(variet: Hands, engine: ScriptedEngine) -> None:
    message = script({"tokens": 500, "delay_ms": 20})
    async with variet.client.stream(
        "POST", "/chat", json={"message": message, "stream": True}
    ) as a:
        stream = read_events(a)
        run_id = (await anext(stream))["data"]["run_id"]
        async for event in stream:
            if event["type"] == "token":
                break
        stopped = await variet.client.post(f"/runs/{run_id}/stop")
    assert stopped.json() == {"run_id": run_id, "status": "stopped"}
    await engine.wait_for(disconnects=1)
    run = (await variet.client.get(f"/runs/{run_id}")).json()
    assert run["status"] == "stopped"
    assert run["response"]["answer"].startswith("w0")


async def test_a_second_message_on_a_busy_thread_is_refused_queued_or_interrupts(
    variet: Hands, probe: Probe
) -> None:
    hanging = script({"tool_calls": [{"name": "hang", "arguments": {}}]}, {"text": "Late."})
    first = asyncio.create_task(variet.ask(hanging))
    await probe.started.wait()
    (thread,) = (await variet.client.get("/threads")).json()["items"]
    refused = await variet.client.post("/chat", json={"message": "hi", "thread_id": thread["id"]})
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "thread_busy"
    queue = {"message": script({"text": "Queued."}), "thread_id": thread["id"], "stream": True}
    async with variet.client.stream("POST", "/chat", json=queue | {"on_busy": "queue"}) as queued:
        assert queued.status_code == 200
        probe.release.set()
        assert (await first)["answer"] == "Late."
        events = [event async for event in read_events(queued)]
    assert events[-1]["data"]["response"]["answer"] == "Queued."
    assert "queue" in [e["data"]["name"] for e in events if e["type"] == "stage"]


async def test_interrupt_stops_the_running_run_and_goes_on(variet: Hands, probe: Probe) -> None:
    hanging = script({"tool_calls": [{"name": "hang", "arguments": {}}]}, {"text": "Late."})
    first = asyncio.create_task(variet.ask(hanging))
    await probe.started.wait()
    (thread,) = (await variet.client.get("/threads")).json()["items"]
    second = await variet.ask(
        script({"text": "Instead."}), thread_id=thread["id"], on_busy="interrupt"
    )
    assert (await first)["status"] == "stopped"
    assert probe.cancelled.is_set()
    assert second["answer"] == "Instead."


async def test_two_posts_on_one_thread_lose_neither_message(variet: Hands) -> None:
    thread = (await variet.ask(script({"text": "Start."})))["thread_id"]
    both = await asyncio.gather(
        variet.ask(script({"text": "One."}), thread_id=thread, on_busy="queue"),
        variet.ask(script({"text": "Two."}), thread_id=thread, on_busy="queue"),
    )
    assert {a["answer"] for a in both} == {"One.", "Two."}
    messages = (await variet.client.get(f"/threads/{thread}")).json()["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant"] * 3


async def test_malformed_tool_json_is_told_to_the_model_once_then_to_the_user(
    variet: Hands, engine: ScriptedEngine
) -> None:
    bad = {"tool_calls": [{"name": "look", "arguments": '{"text": '}]}
    mended = await variet.ask(script(bad, look(), {"text": "Mended."}))
    assert mended["answer"] == "Mended."
    assert [c["status"] for c in mended["tool_calls"]] == ["failed", "finished"]
    failed = await variet.ask(script(bad, bad, {"text": "never"}))
    assert failed["status"] == "failed"
    assert failed["error"]["code"] == "malformed_tool_call"


async def test_a_defect_in_a_tool_is_an_answer_to_the_model(variet: Hands) -> None:
    boom = {"tool_calls": [{"name": "boom", "arguments": {}}]}
    answer = await variet.ask(script(boom, {"text": "It failed."}))
    assert answer["status"] == "completed"
    assert answer["tool_calls"][0]["status"] == "failed"


async def test_wrong_arguments_never_reach_the_tool(variet: Hands, probe: Probe) -> None:
    wrong = {"tool_calls": [{"name": "look", "arguments": {"text": 5}}]}
    answer = await variet.ask(script(wrong, {"text": "Sorry."}))
    assert answer["tool_calls"][0]["error"]["code"] == "bad_arguments"
    assert "text" in answer["tool_calls"][0]["error"]["message"]
    assert probe.calls["look"] == 0


async def test_an_unknown_tool_is_answered_with_those_that_exist(variet: Hands) -> None:
    unknown = {"tool_calls": [{"name": "loook", "arguments": {}}]}
    answer = await variet.ask(script(unknown, {"text": "Sorry."}))
    assert "look" in answer["tool_calls"][0]["error"]["remedy"]


async def test_a_model_that_repeats_itself_is_ended(variet: Hands) -> None:
    answer = await variet.ask(script(*[look()] * 8))
    assert answer["status"] == "failed"
    assert answer["error"]["code"] == "loop"


async def test_an_empty_answer_is_asked_for_again_then_told(
    variet: Hands, engine: ScriptedEngine
) -> None:
    engine.script({"text": ""})
    again = await variet.ask("hi")
    assert again["answer"] == engine.fallback.text
    engine.script({"text": ""}, {"text": ""})
    empty = await variet.ask("hi")
    assert empty["error"]["code"] == "empty_answer"


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ({"tokens": 5, "fault": "reset", "fault_after": 3}, "engine_truncated"),
        ({"tokens": 5, "fault": "eof", "fault_after": 3}, "engine_truncated"),
        ({"status": 500, "error": "boom"}, "engine_refused"),
    ],
)
async def test_an_engine_that_breaks_off_is_an_error_and_not_an_answer(
    variet: Hands, reply: dict[str, object], code: str
) -> None:
    answer = await variet.ask(script(reply))
    assert answer["status"] == "failed"
    assert answer["error"]["code"] == code
    assert answer["error"]["remedy"]


async def test_a_dead_engine_is_told_at_once_and_the_thread_lives_on(
    variet: Hands, engine: ScriptedEngine
) -> None:
    await engine.stop()
    answer = await variet.ask("hi")
    assert answer["error"]["code"] == "engine_unreachable"
    await engine.start()
    again = await variet.ask(script({"text": "Back."}), thread_id=answer["thread_id"])
    assert again["answer"] == "Back."


async def test_a_hung_engine_is_given_up_after_the_first_token_timeout(
    engine: ScriptedEngine, probe: Probe, tmp_path: Path
) -> None:
    limits: dict[str, Any] = {"first_token_timeout_s": 0.3, "token_timeout_s": 0.3}
    async with hands(engine.url, tmp_path, probe.server, **limits) as variet:
        hung = await variet.ask(script({"tokens": 3, "fault": "hang"}))
        assert hung["error"]["code"] == "engine_timeout"
        stuck = await variet.ask(script({"tokens": 3, "fault": "hang", "fault_after": 1}))
        assert stuck["error"]["code"] == "engine_timeout"


async def test_the_raw_exchange_is_kept_byte_for_byte(
    variet: Hands, engine: ScriptedEngine
) -> None:
    answer = await variet.ask(script({"text": "Raw."}))
    items = (await variet.client.get(f"/runs/{answer['run_id']}/exchanges")).json()["items"]
    assert len(items) == 1
    assert '"tool_choice":"auto"' in items[0]["request"]
    assert items[0]["response"].rstrip().endswith("data: [DONE]")
