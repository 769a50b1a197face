"""`variet ask`: one question, its answer on stdout, everything around it on stderr."""

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from cli import show
from cli.address import connect
from cli.approve import AtTerminal, leave_open
from cli.show import RunPrinter, line
from cli.text import exact, prose
from cli.turn import Decide, Turn, failure
from contracts.chat import ChatRequest, ChatResponse
from contracts.errors import BadRequest
from contracts.report import Report

WAITS_FOR_APPROVAL = 3


def ask(
    question: str,
    tier: Any = None,
    thread: str | None = None,
    schema: str | None = None,
    url: str | None = None,
    as_json: bool = False,
) -> int:
    """Returns the exit status: 0 completed, 1 failed or stopped, 3 an approval is open."""
    text = sys.stdin.read() if question == "-" else question
    if not text.strip():
        raise BadRequest("no_question", "The question is empty.", 'Try: variet ask "hello"')
    request = ChatRequest(
        message=text, thread_id=thread, tier=tier, stream=True, response_schema=load_schema(schema)
    )
    notes = Console(stderr=True)
    answer = Console(quiet=True) if as_json else Console()
    with connect(url) as client:
        printer = RunPrinter(answer, notes)
        turn = Turn(client, printer, _decide(notes, client.stop))
        try:
            response = turn.ask(request)
        except KeyboardInterrupt:
            if turn.run_id:
                client.stop(turn.run_id)
            raise
    if as_json:
        sys.stdout.write(response.model_dump_json(indent=2) + "\n")
    else:
        _finish(response, schema, notes)
    return _status(response, notes, printer.error_shown)


def load_schema(name: str | None) -> dict[str, Any] | None:
    """`report`, or a file with a JSON Schema."""
    if name is None:
        return None
    if name == "report":
        return Report.model_json_schema()
    try:
        schema = json.loads(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadRequest(
            "no_schema",
            f"--schema {name}: {error.strerror or error}.",
            "Give a file that holds a JSON Schema, or the word report.",
        ) from error
    except ValueError as error:
        raise BadRequest(
            "bad_schema", f"--schema {name} is not JSON: {error}.", "Correct the file."
        ) from error
    if not isinstance(schema, dict):
        raise BadRequest("bad_schema", f"--schema {name} is no JSON object.", "Correct the file.")
    return schema


def _decide(console: Console, stop: Any) -> Decide:
    interactive = sys.stdin.isatty() and sys.stderr.isatty()
    return AtTerminal(console, console.input, stop) if interactive else leave_open


def _finish(response: ChatResponse, schema: str | None, notes: Console) -> None:
    out = Console()
    if response.structured is not None and schema == "report":
        show.report(out, Report.model_validate(response.structured))
    elif response.structured is not None:
        sys.stdout.write(prose(json.dumps(response.structured, indent=2, ensure_ascii=False)))
        sys.stdout.write("\n")
    show.citations(notes, response)
    usage = response.usage
    line(
        notes,
        f"{exact(response.model)} · {usage.prompt_tokens} + {usage.completion_tokens} tokens"
        f" · thread {response.thread_id} · run {response.run_id}",
        "dim",
    )


def _status(response: ChatResponse, notes: Console, said: bool) -> int:
    if response.status == "completed":
        return 0
    if response.status == "awaiting_approval":
        for one in (one for one in response.approvals if one.status == "pending"):
            show.approval(notes, one)
            line(notes, f"Answer it with: variet approvals answer {one.id} approve", "yellow")
        return WAITS_FOR_APPROVAL
    if not said:
        line(notes, failure(response), "red")
    return 1
