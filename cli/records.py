"""`variet runs`, `variet threads`, `variet approvals`: what the orchestrator has on record."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from cli import show
from cli.address import connect
from cli.show import line
from cli.text import compact, duration, exact, prose
from cli.turn import failure
from contracts.chat import (
    Approval,
    ApprovalDecision,
    ChatResponse,
    Exchange,
    RunView,
    ThreadDetail,
    ThreadView,
    ToolCall,
)
from contracts.errors import BadRequest

WAIT_S = 3_600.0
BRIEF = 100


def list_runs(limit: int, url: str | None, console: Console) -> None:
    with connect(url) as client:
        found = client.get("/runs", limit=limit)["items"]
    if not found:
        line(console, "No runs yet. Try: variet ask 'List the calibration maps'")
        return
    rows = []
    for run in map(RunView.model_validate, found):
        took = duration(run.response.latency_ms) if run.response else ""
        rows.append((run.id, run.status, _when(run.created_at), took, _brief(run.message)))
    _print(console, ("run", "status", "when", "took", "message"), rows)


def show_run(run_id: str, raw: bool, as_json: bool, url: str | None, console: Console) -> None:
    """A run's inputs, tool calls, answer, tokens and time per stage; `raw`: each engine call."""
    with connect(url) as client:
        run = RunView.model_validate(client.get(f"/runs/{run_id}"))
        exchanges = client.get(f"/runs/{run_id}/exchanges")["items"] if raw else []
    if as_json:
        view = run.model_dump(mode="json") | ({"exchanges": exchanges} if raw else {})
        sys.stdout.write(json.dumps(view, indent=2, ensure_ascii=False) + "\n")
    elif raw:
        _show_exchanges([Exchange.model_validate(one) for one in exchanges], console)
    else:
        _show_run(run, console)


def list_threads(limit: int, url: str | None, console: Console) -> None:
    with connect(url) as client:
        found = client.get("/threads", limit=limit)["items"]
    if not found:
        line(console, "No threads yet. Begin one with: variet chat")
        return
    threads = map(ThreadView.model_validate, found)
    rows = [(one.id, _when(one.updated_at), _brief(one.title)) for one in threads]
    _print(console, ("thread", "last used", "title"), rows)


def show_thread(thread_id: str, url: str | None, console: Console) -> None:
    with connect(url) as client:
        thread = ThreadDetail.model_validate(client.get(f"/threads/{thread_id}"))
    for message in thread.messages:
        line(console, message.role, "bold")
        for call in message.tool_calls or []:
            line(console, f"▸ {compact(call, 300)}", "cyan")
        if message.role == "tool":
            line(console, exact(message.content[:2_000]), "dim")
        elif message.content:
            line(console, prose(message.content))


def prune_threads(days: float, url: str | None, console: Console) -> None:
    with connect(url) as client:
        deleted = client.delete("/threads", older_than_days=days)["deleted"]
    line(console, f"Deleted {deleted} threads that were idle for {days:g} days.")


def list_approvals(url: str | None, console: Console) -> None:
    with connect(url) as client:
        found = client.get("/approvals")["items"]
    for one in map(Approval.model_validate, found):
        show.approval(console, one)
    if not found:
        line(console, "No approval is pending.")


def answer_approval(
    approval_id: str,
    decision: Any,
    arguments: str | None,
    comment: str | None,
    url: str | None,
    console: Console,
) -> int:
    """Decide, and show how the run went on from there. Returns the exit status."""
    body = ApprovalDecision(
        decision=decision, arguments=_arguments(decision, arguments), comment=comment, wait=True
    )
    with connect(url, timeout=WAIT_S) as client:
        answer = client.post(f"/approvals/{approval_id}", body.model_dump(exclude_none=True))
    response = ChatResponse.model_validate(answer)
    for call in response.tool_calls:
        _show_call(call, console)
    line(console, prose(response.answer))
    show.citations(console, response)
    if response.status == "completed":
        return 0
    if response.status == "awaiting_approval":
        for one in (one for one in response.approvals if one.status == "pending"):
            show.approval(console, one)
        return 0
    line(Console(stderr=True), failure(response), "red")
    return 1


def _arguments(decision: str, text: str | None) -> dict[str, Any] | None:
    if text is None:
        if decision == "edit":
            raise BadRequest(
                "no_arguments", "edit needs --arguments.", "Give them as JSON, or as @FILE."
            )
        return None
    try:
        source = Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text
        arguments = json.loads(source)
    except (OSError, ValueError) as error:
        raise BadRequest(
            "bad_arguments", f"--arguments {text}: {error}.", "Give a JSON object, or @FILE."
        ) from error
    if not isinstance(arguments, dict):
        raise BadRequest(
            "bad_arguments", f"--arguments {text} is no JSON object.", 'Write {"name": value}.'
        )
    return arguments


def _show_run(run: RunView, console: Console) -> None:
    _fact(
        console, "run", f"{run.id}, {run.status}, thread {run.thread_id}, {_when(run.created_at)}"
    )
    _fact(console, "message", prose(run.message))
    response = run.response
    for call in response.tool_calls if response else []:
        _show_call(call, console)
    if response:
        _fact(console, "answer", prose(response.answer))
        if response.structured is not None:
            structured = json.dumps(response.structured, indent=2, ensure_ascii=False)
            _fact(console, "structured", prose(structured))
        show.citations(console, response)
        usage = response.usage
        _fact(console, "tokens", f"{usage.prompt_tokens} in, {usage.completion_tokens} out")
        _fact(console, "model", exact(response.model))
        if response.error:
            _fact(console, "error", show.error_line(response.error))
        if response.trace_url:
            _fact(console, "trace", exact(response.trace_url))
    for stage in run.stages:
        detail = f" {exact(stage.detail)}" if stage.detail else ""
        line(console, f"  {exact(stage.name)}{detail}  {duration(stage.ms)}", "dim")


def _show_call(call: ToolCall, console: Console) -> None:
    line(console, f"▸ {exact(call.name)} {show.arguments(call.arguments, 400)}", "cyan")
    said = [""] if call.result is None else show.outline(call.result)
    first, *more = [exact(call.error.message)] if call.error else said
    took = "" if call.ms is None else f"  ({duration(call.ms)})"
    line(console, f"  → {call.status} {first}{took}")
    for text in more:
        line(console, f"    {text}", "dim")


def _show_exchanges(exchanges: list[Exchange], console: Console) -> None:
    if not exchanges:
        line(console, "No engine call is kept for this run (RAW_RUNS says for how many runs).")
    for one in exchanges:
        line(console, f"── engine call {one.n}, {duration(one.ms)}: request", "bold")
        line(console, prose(one.request))
        line(console, f"── engine call {one.n}: raw completion", "bold")
        line(console, prose(one.response))


def _print(console: Console, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Columns of which only the last gives way: an id that is cut is of no use."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        *fixed, last = row
        start = "  ".join(f"{cell:<{width}}" for cell, width in zip(fixed, widths, strict=False))
        room = max(console.width - len(start) - 2, 20) if console.is_terminal else len(last)
        text = last if len(last) <= room else f"{last[: room - 1]}…"
        line(console, f"{start}  {text}", "bold" if row is header else "")


def _fact(console: Console, name: str, text: str) -> None:
    line(console, f"{name:<11}", "bold", end="")
    line(console, text)


def _brief(text: str) -> str:
    shown = exact(text)
    return shown if len(shown) <= BRIEF else f"{shown[: BRIEF - 1]}…"


def _when(iso: str) -> str:
    return iso[:19].replace("T", " ")
