"""Measures nano through the served engine and writes the figures to eval.json.

    python -m models.nano.evaluate [--weights FILE] [--samples 500] [--show 5] [--write]

Everything goes over HTTP to the engine that production runs: the orchestrator's system prompt and
tools, tool_choice auto, temperature 0. Samples come from seeds that training never draws;
handwritten prompts are in tests/models/handwritten.
"""

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from models.nano.answers import report_json
from models.nano.dialogues import INSTRUCTION, Dialogue, Turn, dialogue
from models.nano.overlap import overlap
from models.nano.served import SYSTEM_PROMPT, WEIGHTS, Served, offered, opening, served

RESULT = Path(__file__).parent / "eval.json"
HANDWRITTEN = Path(__file__).parents[2] / "tests" / "models" / "handwritten"
CALL = "<tool_call>\n"
Tools = list[dict[str, Any]]


@dataclass(frozen=True)
class Sample:
    """A question with what went before, and what is right."""

    messages: list[dict[str, Any]]
    tools: Tools
    exchange: list[Turn]
    report: Any

    @property
    def kind(self) -> str:
        first = self.exchange[1].text
        return json.loads(first.split("\n")[1])["name"] if first.startswith(CALL) else "no tool"


def samples(seed: str, count: int, known: Tools) -> list[Sample]:
    return [_sample(dialogue(Random(f"{seed}/{n}")), known) for n in range(count)]


def _sample(made: Dialogue, known: Tools) -> Sample:
    """The last question of a conversation is asked; what went before is given."""
    turns = list(made.turns)
    if turns[-2].text == INSTRUCTION:
        turns = turns[:-2]
    last = max(i for i, turn in enumerate(turns) if turn.role == "user")
    real = {tool["function"]["name"]: tool for tool in known}
    tools = [real.get(tool["function"]["name"], tool) for tool in made.tools]
    messages = [{"role": "system", "content": SYSTEM_PROMPT}, *map(message, turns[: last + 1])]
    assert made.report is not None
    return Sample(messages, tools, turns[last:], json.loads(report_json(made.report)))


def message(turn: Turn) -> dict[str, Any]:
    """A turn in OpenAI's form."""
    if turn.role == "tool":
        return {"role": "tool", "tool_call_id": "call", "content": turn.text}
    if not turn.text.startswith(CALL):
        return {"role": turn.role, "content": turn.text}
    call = json.loads(turn.text.split("\n")[1])
    return call_message(call["name"], call["arguments"])


def call_message(name: str, arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    call = {"id": "call", "type": "function", "function": function}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


@dataclass(frozen=True)
class Score:
    kind: str
    call: bool
    prose: bool
    report: bool
    note: str


def score(engine: Served, sample: Sample) -> Score:
    """Ask, answer the call with the sample's result, read the answer, ask for it as JSON.

    After a wrong call the right one is put in its place, so that each stage is measured.
    """
    messages, answer = list(sample.messages), sample.exchange[-1].text
    reply = engine.ask(messages, sample.tools)
    if sample.kind == "no tool":
        right, prose = not reply.calls, reply.text
        said = str(reply)
    else:
        wanted = json.loads(sample.exchange[1].text.split("\n")[1])
        right = reply.calls == [(wanted["name"], wanted["arguments"])]
        said = str(reply)
        messages += [call_message(wanted["name"], wanted["arguments"]), message(sample.exchange[2])]
        prose = engine.ask(messages, sample.tools).text
    messages.append({"role": "assistant", "content": prose})
    report = engine.report(messages, sample.tools)
    note = ""
    if not right:
        asked = sample.messages[-1]["content"]
        note = f"asked {asked!r}\n  want {sample.exchange[1].text!r}\n  got  {said}"
    elif prose != answer:
        note = f"result {messages[-2]['content']!r}\n  want {answer!r}\n  got  {prose!r}"
    elif report != sample.report:
        note = f"want {sample.report}\n  got  {report}"
    return Score(sample.kind, right, prose == answer, report == sample.report, note)


def generated(engine: Served, count: int, known: Tools, show: int) -> dict[str, Any]:
    scores = _each(lambda sample: score(engine, sample), samples("evaluation", count, known))
    shown: Counter[str] = Counter()
    for found in scores:
        if found.note and shown[found.kind] < show:
            shown[found.kind] += 1
            print(f"- {found.kind}: {found.note}")
    kinds = sorted({found.kind for found in scores})
    return {
        "samples": len(scores),
        "call_exact": share(found.call for found in scores),
        "prose_exact": share(found.prose for found in scores),
        "report_exact": share(found.report for found in scores),
        "by_tool": {
            kind: {
                "samples": len(of := [found for found in scores if found.kind == kind]),
                "call_exact": share(found.call for found in of),
                "prose_exact": share(found.prose for found in of),
                "report_exact": share(found.report for found in of),
            }
            for kind in kinds
        },
    }


def handwritten(engine: Served, name: str, known: Tools) -> dict[str, Any]:
    """Prompts with the tool that fits them, and some of the arguments."""
    prompts = read(name)
    replies = _each(lambda line: engine.ask(opening(line["prompt"]), known), prompts)
    right = [_fits(line, reply.calls) for line, reply in zip(prompts, replies, strict=True)]
    wrong = Counter(
        f"{line['tool']} -> {reply.calls[0][0] if reply.calls else 'no tool'}"
        for line, reply, (tool, _) in zip(prompts, replies, right, strict=True)
        if not tool
    )
    with_arguments = [
        both for line, both in zip(prompts, right, strict=True) if line["arguments"] is not None
    ]
    return {
        "prompts": len(prompts),
        "right_tool": share(tool for tool, _ in right),
        "right_arguments": share(whole for _, whole in with_arguments),
        "with_arguments": len(with_arguments),
        "confused": dict(wrong.most_common()),
        "other_arguments": dict(_missed(prompts, replies).most_common()),
    }


def _missed(prompts: list[dict[str, Any]], replies: list[Any]) -> Counter[str]:
    """Which arguments of rightly chosen tools are not as the prompt's author expects them."""
    missed: Counter[str] = Counter()
    for line, reply in zip(prompts, replies, strict=True):
        if len(reply.calls) == 1 and reply.calls[0][0] == line["tool"]:
            given = reply.calls[0][1] or {}
            for name, value in (line["arguments"] or {}).items():
                if given.get(name) != value:
                    how = "differs" if name in given else "is missing"
                    missed[f"{line['tool']}.{name} {how}"] += 1
    return missed


def _fits(line: dict[str, Any], calls: list[tuple[str, Any]]) -> tuple[bool, bool]:
    if len(calls) != 1 or calls[0][0] != line["tool"]:
        return False, False
    wanted, given = line["arguments"] or {}, calls[0][1] or {}
    return True, all(given.get(name) == value for name, value in wanted.items())


def open_questions(engine: Served, known: Tools) -> dict[str, Any]:
    replies = _each(lambda line: engine.ask(opening(line["prompt"]), known), read("open.jsonl"))
    says = [
        not reply.calls and "small demo model" in reply.text and "variet models pull" in reply.text
        for reply in replies
    ]
    called = Counter(reply.calls[0][0] for reply in replies if reply.calls)
    return {"prompts": len(replies), "says_what_it_is": share(says), "false_calls": dict(called)}


def read(name: str) -> list[dict[str, Any]]:
    lines = (HANDWRITTEN / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def share(hits: Any) -> float:
    found = list(hits)
    return round(sum(found) / len(found), 4) if found else 0.0


def _each(work: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(work, items))


def table(result: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    made, hand, free, demo = (result[key] for key in ("generated", "handwritten", "open", "demo"))
    rows = [
        (f"{made['samples']} generated conversations: call exact", made["call_exact"], "97 %"),
        ("… prose answer exact, to the character", made["prose_exact"], ""),
        ("… structured answer exact", made["report_exact"], "90 %"),
        (f"{hand['prompts']} handwritten prompts: right tool", hand["right_tool"], "85 %"),
        (f"… right arguments, of {hand['with_arguments']}", hand["right_arguments"], ""),
        (f"{free['prompts']} open questions: says what it is", free["says_what_it_is"], "95 %"),
        (f"{demo['prompts']} paraphrases of the demo: right tool", demo["right_tool"], "100 %"),
        ("… right arguments", demo["right_arguments"], "100 %"),
    ]
    lines = ["| measured through the served engine | figure | goal |", "|---|---|---|"]
    lines += [f"| {name} | {100 * figure:.1f} % | {goal} |" for name, figure, goal in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure nano.")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--show", type=int, default=0, help="failed samples to print per tool")
    parser.add_argument("--only-generated", action="store_true")
    parser.add_argument("--write", action="store_true", help="write eval.json")
    given = parser.parse_args()
    known = offered()
    result: dict[str, Any] = {
        "weights_sha256": hashlib.sha256(given.weights.read_bytes()).hexdigest()
    }
    with served(given.weights) as engine:
        result["generated"] = generated(engine, given.samples, known, given.show)
        if given.only_generated:
            print(json.dumps(result, indent=1))
            return
        result["handwritten"] = handwritten(engine, "tools.jsonl", known)
        result["demo"] = handwritten(engine, "demo.jsonl", known)
        result["open"] = open_questions(engine, known)
    prompts = [
        line["prompt"] for name in ("tools", "demo", "open") for line in read(f"{name}.jsonl")
    ]
    result["overlap"] = overlap(prompts)
    print(json.dumps(result, indent=1))
    print(table(result))
    if given.write:
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
