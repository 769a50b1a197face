"""The reference answers: what nano is taught to say, computed from what the model can see."""

import json
import re
from typing import Any

from contracts.report import Report, ReportedAnomaly, SuggestedPatch
from contracts.tools import (
    Anomaly,
    CellEdit,
    DocMatches,
    FileResult,
    LogMatches,
    MapList,
    MapTable,
    PatchResult,
    TestRun,
)  # fmt: skip
from models.nano.words import plain
from orchestrator.agent.prompt import render_tool_result

LIMIT = 614
OPEN = (
    "I am nano, the small demo model built into Variet: I can use its tools, but I cannot answer"
    " open questions. For a real model run: variet models pull"
)
NO_TOOL = "I have no tool for that in this conversation."
REJECTED = "You rejected this call, so nothing was done."
MOST = 4
"""The most anomalies, maps or entries that an answer lists."""

Answer = tuple[str, Report]


def rendered(result: Any, limit: int = LIMIT) -> str:
    return render_tool_result(result, limit)


def no_map(summary: str, next_action: str) -> Answer:
    """An answer that is not about a map's cells."""
    report = Report(summary=summary, anomalies=[], suggested_patch=None, next_action=next_action)
    return summary, report


def opened() -> Answer:
    return no_map(OPEN, "Run variet models pull.")


def missing_tool() -> Answer:
    return no_map(NO_TOOL, "Ask with a tool that can do this.")


def rejected() -> Answer:
    return no_map(REJECTED, "Nothing to do.")


def failed(error: dict[str, str]) -> Answer:
    return no_map(
        f"That did not work: {error['message']} {error['remedy']}", "Correct this and ask again."
    )


def map_answer(table: MapTable) -> Answer:
    unit, found = table.unit, table.anomalies
    rows, columns = table.shape
    head = f"{table.key} ({unit}, {rows} x {columns}) has"
    if not found:
        text = f"{head} no anomalies."
        report = Report(
            summary=text, anomalies=[], suggested_patch=None, next_action="No change is needed."
        )
        return f"{text} No change is needed.", report
    shown = found[:MOST]
    count = "1 anomaly" if len(found) == 1 else f"{len(found)} anomalies"
    if len(found) > MOST:
        count = f"more than {MOST} anomalies, among them"
    summary = f"{head} {count}: " + "; ".join(_cell(a, unit) for a in shown) + "."
    values = joined([f"{plain(a.expected)} {unit}" for a in shown])
    advice = f"I suggest setting {'it' if len(shown) == 1 else 'them'} to {values}."
    report = Report(
        summary=summary,
        anomalies=[
            ReportedAnomaly(
                row=a.row, column=a.column, at=a.at, value=a.value, expected=a.expected, unit=unit
            )
            for a in shown
        ],
        suggested_patch=SuggestedPatch(cell_edits=edits(table)),
        next_action="Apply the suggested patch, then run the tests.",
    )
    return f"{summary} {advice}", report


def edits(table: MapTable) -> list[CellEdit]:
    """The cell edits that a map's answer suggests."""
    return [
        CellEdit(map=table.key, row=a.row, column=a.column, value=a.expected)
        for a in table.anomalies[:MOST]
    ]


def _cell(a: Anomaly, unit: str) -> str:
    return (
        f"row {a.row}, column {a.column} ({a.at}) reads {plain(a.value)} {unit},"
        f" expected about {plain(a.expected)} {unit}"
    )


def joined(parts: list[str]) -> str:
    """`a, b and c`."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def list_answer(maps: MapList) -> Answer:
    if not maps.maps:
        return no_map("There are no calibration maps.", "Add a map to the workspace.")
    names = [f"{m.key} ({m.unit})" for m in maps.maps[:MOST]]
    more = " and others" if len(maps.maps) > MOST else ""
    listed = ", ".join(names) + more if more else joined(names)
    return no_map(f"The calibration maps: {listed}.", "Ask for one of these maps.")


def log_answer(found: LogMatches) -> Answer:
    if not found.lines:
        return no_map("No log line matches.", "Widen the search.")
    shown = [f"{line.time} {line.level} {line.text} ({line.source})" for line in found.lines[:2]]
    count = "1 log line matches" if found.matched == 1 else f"{found.matched} log lines match"
    rest = ", the first two" if found.matched > 2 else ""
    return no_map(f"{count}{rest}: {'; '.join(shown)}.", f"Look at {found.lines[0].source}.")


def test_answer(run: TestRun) -> Answer:
    return no_map(_outcome(run), _after(run))


def _outcome(run: TestRun) -> str:
    counts = f"{run.passed} passed, {run.failed} failed"
    if run.status == "passed":
        return f"The tests passed: {counts}."
    if run.status == "failed":
        return f"The tests failed: {counts}. Failed: {', '.join(run.failures[:3])}."
    verb = {"not_run": "were not run", "timeout": "timed out", "error": "could not run"}[run.status]
    return f"The tests {verb}: {(run.reason or 'no reason given').rstrip('.')}."


def _after(run: TestRun) -> str:
    if run.status == "passed":
        return "Nothing to do."
    return (
        f"Fix {run.failures[0]}."
        if run.status == "failed"
        else "Mend this and run the tests again."
    )


def patch_answer(done: PatchResult) -> Answer:
    changed = f"Changed {joined(done.files[:3])}; to undo use {done.undo}."
    action = "Nothing to do."
    if done.tests.status == "failed":
        action = f"Undo with {done.undo}."
    elif done.tests.status != "passed":
        action = "Run the tests."
    return no_map(f"{changed} {_outcome(done.tests)}", action)


def file_answer(done: FileResult) -> Answer:
    return no_map(_file_text(done), "Nothing to do.")


def _file_text(done: FileResult) -> str:
    if done.operation == "write":
        return f"Wrote {done.bytes} bytes to {done.path}."
    if done.operation == "move":
        return f"Moved {done.path} to {done.to}."
    if done.operation == "delete":
        return f"Deleted {done.path}."
    if done.operation == "list":
        entries = done.entries or []
        if not entries:
            return f"{done.path} is empty."
        names = [e.name + ("/" if e.kind == "directory" else "") for e in entries[:6]]
        more = " and more" if len(entries) > 6 else ""
        return f"{done.path} holds {', '.join(names)}{more}."
    if not done.content:
        return f"{done.path} is empty."
    lines = done.content.strip().split("\n")
    more = "\n..." if len(lines) > 4 else ""
    return f"{done.path}:\n" + "\n".join(lines[:4]) + more


def doc_answer(found: DocMatches) -> Answer:
    if not found.results:
        return no_map("The documents hold nothing on this.", "Index documents that cover this.")
    first = found.results[0]
    lines = [line for line in first.text.split("\n") if line and not line.startswith("#")]
    prose = re.sub(r"^(- |\d+\. )", "", " ".join(lines) or first.text)
    sentence = prose.split(". ")[0].rstrip(".")
    return no_map(f"{sentence} [{first.n}].", f"Read {first.source} from line {first.start_line}.")


def report_json(report: Report) -> str:
    """The structured answer as the model writes it."""
    return json.dumps(_whole(report.model_dump()), ensure_ascii=False)


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {k: _whole(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_whole(v) for v in value]
    return value
