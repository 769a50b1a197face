"""What a run looks like on a terminal, event by event."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.text import compact, duration, exact, number, prose
from contracts.chat import Approval, ChatResponse, ToolCall
from contracts.errors import ErrorBody
from contracts.events import DATA_MODELS, Event, StageData, TokenData
from contracts.report import Report

RESULT_LIMIT = 400
ITEMS = 3
# Stages that a reader of the answer should know about even without `stages`.
NOTABLE = frozenset({"queue", "recovery", "compaction", "retry", "engine"})


def line(console: Console, text: str, style: str = "", end: str = "\n") -> None:
    """Print as it is: no markup, no highlighting, no wrapping that would cut a copied line."""
    console.print(Text(text, style), end=end, soft_wrap=True)


class RunPrinter:
    """Prints events. The answer goes to `answer`, everything around it to `notes`."""

    def __init__(self, answer: Console, notes: Console | None = None, stages: bool = False) -> None:
        self.answer = answer
        self.notes = notes or answer
        self._stages = stages
        self._in_prose = False
        self._calls: dict[str, str] = {}
        self.error_shown = False

    def show(self, event: Event) -> None:
        data: Any = DATA_MODELS[event.type].model_validate(event.data)
        match event.type:
            case "token":
                self._token(data)
            case "stage":
                self._stage(data)
            case "tool_call":
                self._call(data)
            case "tool_result":
                self._result(data)
            case "error":
                self._error(data)
            case "end":
                self.break_line()

    def note(self, text: str, style: str = "dim") -> None:
        self.break_line()
        line(self.notes, text, style)

    def break_line(self) -> None:
        if self._in_prose:
            line(self.answer, "")
            self._in_prose = False

    def _token(self, data: TokenData) -> None:
        line(self.answer, prose(data.text), end="")
        self._in_prose = True

    def _stage(self, data: StageData) -> None:
        if not self._stages and data.name not in NOTABLE:
            return
        detail = f" {exact(data.detail)}" if data.detail else ""
        if data.status == "started":
            self.note(f"· {exact(data.name)}{detail} …")
        elif data.ms is not None:
            self.note(f"· {exact(data.name)}{detail} {duration(data.ms)}")

    def _call(self, call: ToolCall) -> None:
        # Proposed, then running, perhaps with an approval in between: one call all the same.
        shown = f"▸ {exact(call.name)} {arguments(call.arguments)}"
        if self._calls.get(call.id) != shown:
            self._calls[call.id] = shown
            self.note(shown, "cyan")

    def _result(self, call: ToolCall) -> None:
        if call.status == "finished":
            took = "" if call.ms is None else f"  ({duration(call.ms)})"
            first, *more = outline(call.result)
            self.note(f"  → {first}{took}")
            for text in more:
                self.note(f"    {text}")
        elif call.error:
            self.note(f"  → {call.status}: {exact(call.error.message)}", "yellow")
        else:
            self.note(f"  → {call.status}", "yellow")

    def _error(self, error: ErrorBody) -> None:
        self.error_shown = True
        self.note(f"! {exact(error.message)} {exact(error.remedy)}", "red")


def arguments(given: dict[str, Any], limit: int = 160) -> str:
    return " ".join(f"{exact(name)}={compact(value, limit)}" for name, value in given.items())


def outline(result: Any) -> list[str]:
    """A tool's result in a few lines: its plain values, then the first of its lists."""
    if not isinstance(result, dict):
        return [compact(result, RESULT_LIMIT)]
    plain: list[str] = []
    items: list[str] = []
    for name, value in result.items():
        records = isinstance(value, list) and value and isinstance(value[0], dict | list)
        if records and not items and isinstance(value[0], dict):
            items = [f"{exact(name)} ({len(value)}):", *map(_record, value[:ITEMS])]
            if len(value) > ITEMS:
                items.append(f"  … and {len(value) - ITEMS} more")
        elif records:
            plain.append(f"{exact(name)}: {len(value)} items")
        elif value == []:
            plain.append(f"{exact(name)}: none")
        elif value not in (None, {}, ""):
            plain.append(f"{exact(name)}: {compact(value, 80)}")
    return [_cut(" · ".join(plain)), *items]


def _record(record: dict[str, Any]) -> str:
    return "  " + _cut(" · ".join(f"{exact(k)}: {compact(v, 80)}" for k, v in record.items()))


def _cut(text: str) -> str:
    return text if len(text) <= RESULT_LIMIT else f"{text[:RESULT_LIMIT]}…"


def approval(console: Console, asked: Approval) -> None:
    """The exact call that a decision is about, every character of it visible."""
    line(console, f"Approval needed: {exact(asked.tool)}", "bold yellow")
    line(console, f"  because {exact(asked.reason)}", "yellow")
    for name, value in asked.arguments.items():
        if isinstance(value, str) and "\n" in value:
            line(console, f"  {exact(name)}:")
            for part in value.split("\n"):
                line(console, f"    │ {exact(part)}")
        else:
            line(console, f"  {exact(name)} = {compact(value, 100_000)}")
    line(console, f"  approval {exact(asked.id)}, until {exact(asked.expires_at)}", "dim")


def report(console: Console, found: Report) -> None:
    """The demo's structured answer: summary, anomalies as a table, what to do next."""
    line(console, prose(found.summary))
    if found.anomalies:
        table = Table("at", "row", "column", "value", "expected", "unit", box=None, pad_edge=False)
        for one in found.anomalies:
            values = (one.at, one.row, one.column, one.value, one.expected)
            texts = [number(v) if isinstance(v, int | float) else exact(v) for v in values]
            table.add_row(*(Text(text) for text in (*texts, exact(one.unit))))
        console.print(table)
    if found.suggested_patch:
        line(console, "Suggested patch (arguments of apply_patch):", "bold")
        for edit in found.suggested_patch.cell_edits:
            place = f"{exact(edit.map)}[row {edit.row}, column {edit.column}]"
            line(console, f"  {place} = {number(edit.value)}")
    line(console, "Next action: ", "bold", end="")
    line(console, prose(found.next_action))


def citations(console: Console, response: ChatResponse) -> None:
    for one in response.citations:
        line(console, f"  [{one.n}] {exact(one.source)}:{one.start_line}-{one.end_line}", "dim")


def error_line(error: ErrorBody) -> str:
    return f"{exact(error.message)} {exact(error.remedy)}"
