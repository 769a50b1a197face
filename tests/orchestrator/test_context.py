"""Threads larger than the window: left out visibly, never silently; what cannot fit is refused."""

from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from contracts.errors import Unprocessable
from orchestrator.agent.context import Aside, Window
from tests.support.hands import Hands, hands
from tests.support.probe_tools import Probe
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripted_reply import script


def window(context: int, answer: int) -> Window:
    """A window whose head takes one token; 2.5 characters count as one."""
    made = Window(context, answer, 0)
    made.measure_head(1)
    return made


def test_a_guess_of_the_head_leaves_room_in_a_smaller_window_too() -> None:
    made = Window(8_192, 1_024, 10_000)
    made.resize(2_048, 682)
    question: list[BaseMessage] = [HumanMessage("What maps do we have?")]
    assert contents(made.fit(question).messages) == "What maps do we have?"


def turn(n: int, size: int = 100) -> list[BaseMessage]:
    return [HumanMessage(f"question {n} " + "q" * size), AIMessage(f"answer {n} " + "a" * size)]


def tool_turn(n: int, size: int) -> list[BaseMessage]:
    call = {"name": "look", "args": {}, "id": f"call_{n}"}
    return [
        HumanMessage(f"question {n}"),
        AIMessage("", tool_calls=[call]),
        ToolMessage("r" * size, tool_call_id=f"call_{n}"),
        AIMessage(f"answer {n}"),
    ]


def contents(messages: list[BaseMessage]) -> str:
    return "\n".join(str(m.content) for m in messages)


def test_what_fits_is_sent_as_it_is() -> None:
    messages = [*turn(1), HumanMessage("last")]
    fitted = window(1_000, 100).fit(messages)
    assert fitted.messages == messages
    assert fitted.note is None


def test_old_tool_results_go_first_then_the_oldest_turns() -> None:
    last = HumanMessage("last")
    results = [*tool_turn(1, 1_000), *turn(2), last]
    fitted = window(400, 100).fit(results)
    assert "[a tool result of 1000 characters was left out]" in contents(fitted.messages)
    assert "question 2" in contents(fitted.messages)
    assert fitted.note == "left out to fit the window: 1 earlier tool result"
    turns = [*turn(1), *turn(2), *turn(3), last]
    fitted = window(250, 100).fit(turns)
    assert "question 1" not in contents(fitted.messages)
    assert "question 3" in contents(fitted.messages)
    assert fitted.note is not None
    assert "earlier messages" in fitted.note


@pytest.mark.parametrize("begins_with", ["a question", "an answer"])
def test_the_model_is_told_what_was_left_out(begins_with: str) -> None:
    imported = [] if begins_with == "a question" else [AIMessage("welcome " + "w" * 100)]
    messages = [*imported, *turn(1), *turn(2), *turn(3), HumanMessage("last")]
    for context in range(180, 500, 20):
        fitted = window(context, 100).fit(messages)
        sent = contents(fitted.messages)
        missing = [m for m in messages if str(m.content) not in sent]
        assert bool(missing) == (fitted.note is not None)
        if fitted.note is not None:
            assert fitted.note in sent


def test_a_call_is_never_parted_from_its_result() -> None:
    messages = [*tool_turn(1, 300), *tool_turn(2, 300), *tool_turn(3, 300), HumanMessage("last")]
    for context in range(150, 700, 10):
        fitted = window(context, 100).fit(messages).messages
        asked = [c["id"] for m in fitted if isinstance(m, AIMessage) for c in m.tool_calls]
        answered = [m.tool_call_id for m in fitted if isinstance(m, ToolMessage)]
        assert asked == answered
        assert not isinstance(fitted[0], ToolMessage)


def test_the_newest_of_many_results_in_one_turn_is_kept() -> None:
    calls = [{"name": "look", "args": {}, "id": f"c{n}"} for n in range(4)]
    results = [ToolMessage(f"{n}" * 600, tool_call_id=f"c{n}") for n in range(4)]
    fitted = window(600, 100).fit([HumanMessage("q"), AIMessage("", tool_calls=calls), *results])
    assert fitted.note is not None
    assert "3" * 600 in contents(fitted.messages)
    assert "0" * 600 not in contents(fitted.messages)


def test_a_message_larger_than_the_window_is_refused_with_numbers() -> None:
    with pytest.raises(Unprocessable) as error:
        window(1_000, 300).fit([*turn(1), HumanMessage("x" * 5_000)])
    assert error.value.code == "context_overflow"
    assert "2009 tokens; 699" in error.value.message
    assert "of the engine's 1000 are free" in error.value.message


def test_the_estimate_learns_from_what_the_engine_counts() -> None:
    learning = window(1_000, 100)
    message = [HumanMessage("x" * 3_000)]
    with pytest.raises(Unprocessable):
        learning.fit(message)
    learning.learn(10_000, 2_500)
    assert learning.fit(message).note is None
    learning.shrink(message)
    with pytest.raises(Unprocessable):
        learning.fit(message)


async def test_compaction_is_an_event_a_stage_and_a_note_to_the_model(
    engine: ScriptedEngine, probe: Probe, tmp_path: Path
) -> None:
    async with hands(engine.url, tmp_path, probe.server, engine={"context": 1_200}) as variet:
        thread = (await variet.ask("first " + "x" * 1_200))["thread_id"]
        events: list[dict[str, Any]] = []
        for n in range(4):
            events = await variet.events(f"question {n} " + "y" * 600, thread_id=thread)
            assert events[-1]["data"]["status"] == "completed"
        (told,) = [e["data"] for e in events if e["data"].get("name") == "compaction"]
        assert "earlier message" in told["detail"]
        sent = engine.calls[-1].body["messages"]
        assert told["detail"] in sent[1]["content"]
        assert "first " not in sent[1]["content"]
        run = (await variet.client.get("/runs?limit=1")).json()["items"][0]
        assert "compaction" in [s["name"] for s in run["stages"]]
        # The thread itself is whole.
        kept = (await variet.client.get(f"/threads/{thread}")).json()["messages"]
        assert len(kept) == 10


async def test_an_engine_that_finds_a_prompt_too_long_is_asked_once_more_with_less(
    engine: ScriptedEngine, probe: Probe, tmp_path: Path
) -> None:
    async with hands(engine.url, tmp_path, probe.server, engine={"context": 1_200}) as variet:
        thread = (await variet.ask("first " + "x" * 700))["thread_id"]
        await variet.ask("second " + "y" * 300, thread_id=thread)
        too_long = {"status": 400, "error": "the request exceeds the available context size"}
        engine.script(too_long, {"text": "Shorter."})
        events = await variet.events("third " + "z" * 300, thread_id=thread)
        assert events[-1]["data"]["response"]["answer"] == "Shorter."
        assert "compaction" in [e["data"].get("name") for e in events]
        longer, shorter = (call.body["messages"] for call in list(engine.calls)[-2:])
        assert size(shorter) < size(longer)
        engine.script(too_long, too_long)
        failed = await variet.ask("fourth", thread_id=thread)
        assert (failed["status"], failed["error"]["code"]) == ("failed", "context_overflow")


def size(messages: list[dict[str, Any]]) -> int:
    return sum(len(m["content"]) for m in messages)


async def test_a_message_that_cannot_fit_fails_with_numbers_and_the_thread_lives_on(
    engine: ScriptedEngine, probe: Probe, tmp_path: Path
) -> None:
    async with hands(engine.url, tmp_path, probe.server, engine={"context": 1_200}) as variet:
        refused = await variet.ask("x" * 20_000)
        assert (refused["status"], refused["error"]["code"]) == ("failed", "context_overflow")
        assert "1200" in refused["error"]["message"]
        assert len(engine.calls) == 1
        again = await variet.ask("hi", thread_id=refused["thread_id"])
        assert again["answer"] == engine.fallback.text
        body = {"model": "variet", "messages": [{"role": "user", "content": "x" * 20_000}]}
        surface = await variet.client.post("/v1/chat/completions", json=body)
        assert (surface.status_code, surface.json()["error"]["code"]) == (400, "context_overflow")


async def test_a_cut_answer_says_so(variet: Hands, engine: ScriptedEngine) -> None:
    answer = await variet.ask(script({"text": "one two", "finish_reason": "length"}))
    assert answer["answer"].startswith("one two\n[cut at the limit of ")


async def test_a_large_tool_result_is_shortened_with_a_word(
    variet: Hands, engine: ScriptedEngine
) -> None:
    look = {"tool_calls": [{"name": "look", "arguments": {"text": "x" * 4_000}}]}
    answer = await variet.ask(script(look, {"text": "Long."}))
    assert len(answer["tool_calls"][0]["result"]["text"]) == 4_000
    told = engine.calls[-1].body["messages"][-1]["content"]
    assert "more characters are in the run record]" in told
    assert len(told) < 3_000


def test_the_question_of_a_structured_answer_is_never_left_out() -> None:
    question = HumanMessage("the question " + "q" * 300)
    messages = [*turn(1), question, AIMessage("the answer"), Aside("Give it as JSON.")]
    fitted = window(280, 100).fit(messages)
    assert fitted.messages[0].content == f"[{fitted.note}]\n{question.content}"
    assert fitted.messages[1:] == messages[3:]
    with pytest.raises(Unprocessable):
        window(200, 100).fit(messages)
