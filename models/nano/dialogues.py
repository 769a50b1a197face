"""Whole conversations, as the orchestrator holds them with a model, and what to learn of them."""

import json
from dataclasses import dataclass
from random import Random
from typing import Any

from contracts.report import Report
from contracts.tools import MapTable
from models.nano import answers, english, results
from models.nano import words as w
from models.nano.noise import spoken
from models.nano.open_questions import question
from models.nano.requests import Request, another_map, apply_request, map_name, request
from models.nano.template import call_text, render
from orchestrator.agent.prompt import SYSTEM_PROMPT, structured_instruction

INSTRUCTION = structured_instruction(Report.model_json_schema())


def _tool(name: str, description: str, *arguments: str) -> dict[str, Any]:
    properties = {argument: {"type": "string"} for argument in arguments}
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {"type": "object", "properties": properties},
        },
    }


TOOLS = [
    _tool("list_maps", "List the calibration maps."),
    _tool(
        "get_map", "Fetch one calibration map by key, with its table and detected anomalies.",
        "key",
    ),
    _tool(
        "search_logs", "Search the log files by text, level and time.",
        "query", "level", "since", "until", "regex", "file", "limit",
    ),
    _tool(
        "file_operations", "List, read, write, move or delete files in the workspace.",
        "operation", "path", "content", "to",
    ),
    _tool(
        "apply_patch", "Change calibration cells or apply a unified diff, then run the tests.",
        "repo", "patch", "cell_edits",
    ),
    _tool("run_tests", "Run pytest on a path in the workspace.", "path"),
    _tool("search_docs", "Search the indexed documents.", "query", "limit"),
]  # fmt: skip
BRIEF = 280
"""The most characters of a message in a brief conversation."""
STRANGERS = [
    _tool("web_search", "Search the web.", "query"),
    _tool("send_mail", "Send an e-mail.", "to", "subject", "body"),
    _tool("list_events", "List calendar events.", "since", "until"),
    _tool("fetch_page", "Fetch a web page as text.", "url"),
    _tool("run_code", "Run code in the sandbox.", "language", "code"),
]


@dataclass(frozen=True)
class Turn:
    """One message. `learn`: whether the model writes it."""

    role: str
    text: str
    learn: bool = False


@dataclass(frozen=True)
class Dialogue:
    """`report` is the structured answer to the last question; `turns` may end with it."""

    system: str | None
    tools: list[dict[str, Any]]
    turns: list[Turn]
    report: Report | None = None


def dialogue(r: Random, short: bool = False) -> Dialogue:
    """One conversation of one to three questions; `short` ones hold one and few tools."""
    tools = _offered(r, short)
    names = [tool["function"]["name"] for tool in tools]
    turns: list[Turn] = []
    table: MapTable | None = None
    report: Report | None = None
    for _ in range(1 if short else r.choices([1, 2, 3], [6, 4, 2])[0]):
        exchange, report, table = _exchange(r, names, table)
        turns += exchange
    if report is not None and r.random() < 0.5:
        turns.append(Turn("user", INSTRUCTION))
        turns.append(Turn("assistant", answers.report_json(report), learn=True))
    return Dialogue(_system(r), tools, turns, report)


def brief_dialogue(r: Random) -> Dialogue:
    """Many questions with short results: most of the text is questions and calls."""
    tools = _offered(r, short=False)
    names = [tool["function"]["name"] for tool in tools]
    turns: list[Turn] = []
    table: MapTable | None = None
    for _ in range(r.randint(2, 6)):
        tried = [_exchange(r, names, table) for _ in range(4)]
        short = [made for made in tried if all(len(turn.text) < BRIEF for turn in made[0])]
        exchange, _, table = (short or tried)[0]
        turns += exchange
    return Dialogue(_system(r), tools, turns)


def _system(r: Random) -> str | None:
    draw = r.random()
    if draw < 0.8:
        return SYSTEM_PROMPT
    if draw < 0.86:
        return None
    parts = SYSTEM_PROMPT.split(". ")
    return (
        ". ".join(r.sample(parts, r.randint(1, len(parts)))) if draw < 0.94 else results.sentence(r)
    )


def _offered(r: Random, short: bool) -> list[dict[str, Any]]:
    tools = list(TOOLS)
    if short or r.random() < 0.35:
        tools = r.sample(TOOLS, r.randint(1, 4 if short else 6))
    if r.random() < 0.04:
        return []
    if r.random() < 0.6:
        r.shuffle(tools)
    if r.random() < 0.1:
        tools.insert(r.randint(0, len(tools)), r.choice(STRANGERS))
    return tools


Exchange = tuple[list[Turn], Report, MapTable | None]


def _exchange(r: Random, names: list[str], table: MapTable | None) -> Exchange:
    """A question and its answer; `table` is the map that the previous answer was about."""
    if table is not None and table.anomalies and r.random() < 0.6:
        edits = [e.model_dump() for e in answers.edits(table)]
        if r.random() < 0.15 and len(edits) > 1:
            return _ask(r, names, _one_of(r, table, edits))
        return _ask(r, names, apply_request(r, [_numbers(e) for e in edits]))
    if table is not None and r.random() < 0.3:
        return _ask(r, names, another_map(r))
    if r.random() < 0.23 or not names:
        turns, report = _said(spoken(r, question(r), context=0.1), answers.opened())
        return turns, report, None
    asked = request(r)
    if asked.tool not in names and r.random() < 0.7:
        known = [ask for ask in (request(r) for _ in range(6)) if ask.tool in names]
        asked = known[0] if known else asked
    return _ask(r, names, asked)


def _one_of(r: Random, table: MapTable, edits: list[dict[str, Any]]) -> Request:
    """Only the first or the last of the suggested cells."""
    which, edit = r.choice([("first", edits[0]), ("last", edits[-1])])
    words = r.choice(
        [
            "apply only the {} one",
            "just fix the {} cell",
            "only the {} one please",
            "patch the {} cell only",
        ]
    )
    return Request(words.format(which), "apply_patch", {"cell_edits": [_numbers(edit)]}, table.key)


def _numbers(edit: dict[str, Any]) -> dict[str, Any]:
    value = edit["value"]
    return {**edit, "value": int(value) if float(value).is_integer() else value}


def _said(text: str, answer: answers.Answer) -> tuple[list[Turn], Report]:
    return [Turn("user", text), Turn("assistant", answer[0], learn=True)], answer[1]


def _ask(r: Random, names: list[str], asked: Request) -> Exchange:
    text = spoken(r, asked.text, kept=json.dumps(asked.arguments))
    if asked.tool not in names:
        turns, report = _said(text, answers.missing_tool())
        return turns, report, None
    content, answer, table = _outcome(r, asked)
    turns = [
        Turn("user", text),
        Turn("assistant", call_text(asked.tool, asked.arguments), learn=True),
        Turn("tool", content),
        Turn("assistant", answer[0], learn=True),
    ]
    return turns, answer[1], table


def _outcome(r: Random, asked: Request) -> tuple[str, answers.Answer, MapTable | None]:
    """What the tool says, and the answer to it."""
    confirms = asked.tool in ("apply_patch", "run_tests") or asked.arguments.get("operation") in (
        "write", "move", "delete",
    )  # fmt: skip
    draw = r.random()
    if confirms and draw < 0.2:
        return answers.rendered({"error": _rejection(r)}), answers.rejected(), None
    if draw > 0.91:
        error = results.error(r, asked.tool, asked.about)
        return answers.rendered({"error": error}), answers.failed(error), None
    if asked.tool == "get_map":
        table = results.map_table(r, asked.arguments["key"])
        return _map_text(r, table), answers.map_answer(table), table
    result, answer = _plain_outcome(r, asked)
    return answers.rendered(result.model_dump()), answer, None


def _plain_outcome(r: Random, asked: Request) -> tuple[Any, answers.Answer]:
    given = asked.arguments
    if asked.tool == "list_maps":
        maps = results.map_list(r)
        return maps, answers.list_answer(maps)
    if asked.tool == "search_logs":
        lines = results.log_matches(r, given.get("query"), given.get("level"), given.get("file"))
        return lines, answers.log_answer(lines)
    if asked.tool == "run_tests":
        run = results.test_run(r)
        return run, answers.test_answer(run)
    if asked.tool == "search_docs":
        found = results.doc_matches(r, given["query"])
        return found, answers.doc_answer(found)
    if asked.tool == "apply_patch":
        patch = results.patch_result(r, _patched(r, given))
        return patch, answers.patch_answer(patch)
    done = _file_outcome(r, given)
    return done, answers.file_answer(done)


def _patched(r: Random, given: dict[str, Any]) -> list[str]:
    if "patch" in given:
        return [given["patch"].split("\n")[0].removeprefix("--- a/")]
    key, ending = given["cell_edits"][0]["map"], r.choice(["csv", "json"])
    return [f"{r.choice(['data/samples/maps', 'maps', w.folder(r)])}/{key}.{ending}"]


def _file_outcome(r: Random, given: dict[str, Any]) -> Any:
    operation, path = given["operation"], given["path"]
    if operation == "list":
        return results.file_list(r, path)
    if operation == "read":
        return results.file_read(r, path)
    if operation == "write":
        size = len(given["content"].encode())
        return results.FileResult(operation="write", path=path, bytes=size)
    return results.FileResult(operation=operation, path=path, to=given.get("to"))


def _map_text(r: Random, table: MapTable) -> str:
    """The table is bulk: cut it at random, never before the anomalies end."""
    full = answers.rendered(table.model_dump(), 1_000_000)
    needed = full.index('"title"')
    if len(table.anomalies) > answers.MOST:
        needed = min(needed, answers.LIMIT)
    limit = answers.LIMIT if r.random() < 0.4 else r.randint(150, answers.LIMIT)
    return answers.rendered(table.model_dump(), max(limit, needed))


def _rejection(r: Random) -> dict[str, str]:
    comment = f" Comment: {results.sentence(r)}" if r.random() < 0.25 else ""
    if r.random() < 0.1:
        message = "Nobody answered in time: the call counts as rejected."
        return {"code": "expired", "message": message, "remedy": "Do without it."}
    message = f"The user rejected this call.{comment}"
    return {"code": "rejected", "message": message, "remedy": "Do without it; nothing was changed."}


def copy_task(r: Random) -> Dialogue:
    """Plain copying, which makes attention learn to copy before it has to understand."""
    if r.random() < 0.5:
        name = w.identifier(r)
        call = call_text("get_map", {"key": name})
        return Dialogue(None, [], [Turn("user", map_name(r, name)), Turn("assistant", call, True)])
    if r.random() < 0.5:
        kinds = [w.word, w.identifier, w.topic, w.file_path, w.moment, english.phrase]
        text = " ".join(r.choice(kinds)(r) for _ in range(r.randint(3, 12)))
        return Dialogue(None, [], [Turn("tool", text), Turn("assistant", text, learn=True)])
    record = {w.identifier(r, 1): _value(r) for _ in range(r.randint(2, 6))}
    text = json.dumps(record, ensure_ascii=False)
    name = r.choice(list(record))
    turns = [
        Turn("tool", text),
        Turn("assistant", f"{name}: {json.dumps(record[name])}", learn=True),
        Turn("tool", text),
        Turn("assistant", text, learn=True),
    ]
    return Dialogue(None, [], turns)


def _value(r: Random) -> Any:
    return r.choice(
        [
            lambda: w.file_path(r),
            lambda: w.identifier(r),
            lambda: w.number(r, w.decimals(r), -50, 900),
            lambda: w.moment(r),
            lambda: w.topic(r),
            lambda: r.randint(0, 99_999),
        ]
    )()


def corpus(seed: int, size: int) -> list[str]:
    """Conversations as text, for the tokenizer. Fixed prompts are in every twentieth only, so
    that the words of requests and results get the vocabulary."""
    r = w.seeded(seed)
    texts = []
    for number in range(size):
        made = dialogue(r) if number % 10 else copy_task(r)
        whole = number % 20 == 1
        turns = [(turn.role, turn.text) for turn in made.turns if whole or turn.text != INSTRUCTION]
        texts.append(render(made.system if whole else None, made.tools if whole else [], turns))
    return texts
