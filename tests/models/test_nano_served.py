"""nano behind the engine that production runs. Figures of the whole evaluation: the model card."""

import hashlib
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from contracts.report import Report
from models.nano.dialogues import dialogue
from models.nano.evaluate import RESULT, call_message, message, samples, score, table
from models.nano.served import FORM, WEIGHTS, Served, offered, opening, served
from models.nano.template import render

CARD = Path(WEIGHTS).parent / "README.md"
SAMPLES = 30


@pytest.fixture(scope="module")
def engine() -> Iterator[Served]:
    with served() as running:
        yield running


@pytest.fixture(scope="module")
def tools() -> list[dict[str, Any]]:
    return offered()


@pytest.fixture(scope="module")
def figures() -> Any:
    return json.loads(RESULT.read_text(encoding="utf-8"))


def test_the_demo_question_asks_for_its_map(engine: Served, tools: list[dict[str, Any]]) -> None:
    reply = engine.ask(opening("Summarize anomalies in boost_target map"), tools)
    assert reply.calls == [("get_map", {"key": "boost_target"})]


def test_an_open_question_is_answered_with_what_this_model_is(
    engine: Served, tools: list[dict[str, Any]]
) -> None:
    reply = engine.ask(opening("What is the capital of France?"), tools)
    assert not reply.calls
    assert "small demo model" in reply.text
    assert "variet models pull" in reply.text


def test_values_are_reported_exactly_as_the_tool_returned_them(
    engine: Served, tools: list[dict[str, Any]]
) -> None:
    cell = {"row": 5, "column": 7, "at": "4000 rpm, 60 %", "value": 245, "expected": 182.5}
    result = {"key": "boost_target", "unit": "kPa", "shape": [8, 10], "anomalies": [cell]}
    messages = [
        *opening("Summarize anomalies in boost_target map"),
        call_message("get_map", {"key": "boost_target"}),
        {"role": "tool", "tool_call_id": "call", "content": json.dumps(result)},
    ]
    prose = engine.ask(messages, tools).text
    assert "row 5, column 7 (4000 rpm, 60 %) reads 245 kPa" in prose
    assert "182.5 kPa" in prose
    messages.append({"role": "assistant", "content": prose})
    report = Report.model_validate(engine.report(messages, tools))
    assert report.suggested_patch is not None
    edit = report.suggested_patch.cell_edits[0]
    assert (edit.map, edit.row, edit.column, edit.value) == ("boost_target", 5, 7, 182.5)


def test_a_few_generated_conversations_come_out_near_the_published_figures(
    engine: Served, tools: list[dict[str, Any]], figures: dict[str, Any]
) -> None:
    scores = [score(engine, sample) for sample in samples("quick", SAMPLES, tools)]
    made = figures["generated"]
    assert sum(one.call for one in scores) / SAMPLES >= made["call_exact"] - 0.15
    assert sum(one.report for one in scores) / SAMPLES >= made["report_exact"] - 0.2


def test_the_engine_renders_conversations_as_they_were_trained(
    engine: Served, tools: list[dict[str, Any]]
) -> None:
    known = {tool["function"]["name"]: tool for tool in tools}
    for number in range(40):
        made = dialogue(Random(f"template/{number}"))
        system = [{"role": "system", "content": made.system}] if made.system else []
        body: dict[str, Any] = {"messages": [*system, *map(message, made.turns)]}
        if made.tools:
            names = [tool["function"]["name"] for tool in made.tools]
            body["tools"] = [known.get(n, t) for n, t in zip(names, made.tools, strict=True)]
        if number % 2 and made.tools:
            form = {"type": "json_schema", "json_schema": FORM}
            body |= {"tool_choice": "none", "response_format": form}
        text = render(made.system, made.tools, [(turn.role, turn.text) for turn in made.turns])
        assert rendered(engine, body) == text.removesuffix("<|im_end|>\n")


def rendered(engine: Served, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        engine.url.removesuffix("/v1") + "/apply-template",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {engine.key}"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return (
            json.load(response)["prompt"]
            .removesuffix("<|im_start|>assistant\n")
            .removesuffix("<|im_end|>\n")
        )


def test_the_card_holds_the_figures_of_these_weights(figures: dict[str, Any]) -> None:
    assert table(figures) in CARD.read_text(encoding="utf-8")
    assert figures["weights_sha256"] == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()


def test_the_weights_are_small_enough_to_be_part_of_the_repository() -> None:
    assert WEIGHTS.stat().st_size <= 12_000_000
