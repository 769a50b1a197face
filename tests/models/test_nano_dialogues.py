"""What nano is taught: calls that the real tools take, answers that hold nothing invented."""

import json
import re
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from contracts.report import Report
from models.nano.answers import report_json
from models.nano.dialogues import INSTRUCTION, STRANGERS, TOOLS, Dialogue, dialogue
from models.nano.evaluate import read
from models.nano.overlap import overlap
from models.nano.served import offered
from models.nano.template import tool_line
from orchestrator.agent.prompt import SYSTEM_PROMPT

DRAWN = 1500
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@pytest.fixture(scope="module")
def dialogues() -> list[Dialogue]:
    return [dialogue(Random(f"test/{n}")) for n in range(DRAWN)]


@pytest.fixture(scope="module")
def tools() -> dict[str, Any]:
    return {tool["function"]["name"]: tool for tool in offered()}


def calls(made: Dialogue) -> Iterator[tuple[str, dict[str, Any]]]:
    for turn in made.turns:
        if turn.text.startswith("<tool_call>"):
            call = json.loads(turn.text.split("\n")[1])
            yield call["name"], call["arguments"]


def test_the_tools_in_dialogues_read_like_the_real_ones(tools: dict[str, Any]) -> None:
    assert [tool_line(tool) for tool in TOOLS] == [tool_line(tool) for tool in tools.values()]


def test_every_call_fits_the_schema_of_the_real_tool(
    dialogues: list[Dialogue], tools: dict[str, Any]
) -> None:
    checks = {
        name: Draft202012Validator(tool["function"]["parameters"]) for name, tool in tools.items()
    }
    made = [call for one in dialogues for call in calls(one)]
    assert {name for name, _ in made} == set(tools)
    for name, arguments in made:
        checks[name].validate(arguments)


def test_only_offered_tools_are_called_and_never_an_unknown_one(dialogues: list[Dialogue]) -> None:
    strangers = {tool["function"]["name"] for tool in STRANGERS}
    for made in dialogues:
        names = {tool["function"]["name"] for tool in made.tools}
        called = {name for name, _ in calls(made)}
        assert called <= names - strangers


def test_numbers_of_an_answer_stand_in_the_tool_result(dialogues: list[Dialogue]) -> None:
    for made in dialogues:
        for before, turn in zip(made.turns, made.turns[1:], strict=False):
            if before.role == "tool" and turn.learn:
                seen = set(NUMBER.findall(before.text))
                said = set(NUMBER.findall(turn.text.replace(" x ", ", ")))
                own = {str(n) for n in range(5)}
                assert said <= seen | own, (before.text, turn.text)


def test_structured_answers_are_reports(dialogues: list[Dialogue]) -> None:
    for made in dialogues:
        if made.turns[-2].text == INSTRUCTION:
            assert made.turns[-1].text == report_json(
                Report.model_validate_json(made.turns[-1].text)
            )


def test_most_dialogues_have_the_real_prompt_and_tools_come_in_any_order(
    dialogues: list[Dialogue],
) -> None:
    with_prompt = sum(made.system == SYSTEM_PROMPT for made in dialogues)
    assert 0.7 < with_prompt / len(dialogues) < 0.9
    orders = {tuple(tool["function"]["name"] for tool in made.tools) for made in dialogues}
    assert len(orders) > DRAWN / 3


def test_handwritten_prompts_are_hardly_ever_what_the_generator_makes() -> None:
    prompts = [line["prompt"] for name in ("tools", "open") for line in read(f"{name}.jsonl")]
    shared = overlap(prompts, drawn=3000)
    assert shared["equal"] <= 0.05 * shared["prompts"]
