"""What a request has to pass before it becomes a run, and what it is then."""

import time
from typing import Any

from jsonschema.exceptions import SchemaError

from contracts.errors import Conflict, NotFound, Unprocessable
from orchestrator.agent.schemas import compile_schema
from orchestrator.store.records import RunRecord, ThreadRecord, iso, new_id

TITLE_LENGTH = 80


def new_thread(owner: str, message: str) -> ThreadRecord:
    """A thread that is titled by the first line of its first message."""
    now = time.time()
    return ThreadRecord(new_id("thr"), owner, title_of(message), now, now)


def new_run(
    thread_id: str, owner: str, request: dict[str, Any], process: str, lease_s: float
) -> RunRecord:
    now = time.time()
    return RunRecord(
        id=new_id("run"),
        thread_id=thread_id,
        owner=owner,
        status="running",
        request=request,
        created_at=now,
        updated_at=now,
        process=process,
        lease_until=now + lease_s,
    )


def title_of(message: str) -> str:
    lines = message.strip().splitlines()
    first = " ".join(lines[0].split()) if lines else ""
    if not first:
        return "(empty)"
    return first if len(first) <= TITLE_LENGTH else f"{first[: TITLE_LENGTH - 1]}…"


def check_schema(schema: dict[str, Any]) -> None:
    """Raises Unprocessable for a `response_schema` that is no JSON Schema."""
    if not schema:
        raise Unprocessable(
            "bad_schema", "response_schema={} says nothing.", "Say what is wanted, or leave it out."
        )
    try:
        compile_schema(schema)
    except SchemaError as error:
        where = ".".join(str(part) for part in error.absolute_path)
        raise Unprocessable(
            "bad_schema",
            f"response_schema is not a JSON Schema: {where}: {error.message}",
            "Correct it (draft 2020-12).",
        ) from error


def busy(run: RunRecord) -> Conflict:
    what = "awaits an approval" if run.status == "awaiting_approval" else "is still running"
    return Conflict(
        "thread_busy",
        f"Run {run.id} of thread {run.thread_id} {what} (since {iso(run.updated_at)}).",
        "Answer or stop it, or send on_busy: queue or interrupt.",
    )


def unknown_run(run_id: str) -> NotFound:
    return NotFound("unknown_run", f"There is no run {run_id!r}.", "See GET /runs.")


def unknown_thread(thread_id: str) -> NotFound:
    return NotFound("unknown_thread", f"There is no thread {thread_id!r}.", "See GET /threads.")
