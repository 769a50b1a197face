"""Executions of tools under the journal: each call at most once, whatever crashes in between."""

import asyncio
import logging
import time
from typing import Any

from pydantic import ValidationError

from contracts.chat import Citation
from contracts.errors import ToolError, VarietError
from orchestrator.agent.toolbox import arguments_hash
from orchestrator.agent.turn import Turn
from orchestrator.store.records import ExecutionRecord

log = logging.getLogger(__name__)


async def execute(turn: Turn, call_id: str, name: str, arguments: dict[str, Any]) -> Any:
    """Run a tool under the journal: at most once per call id, whatever crashes in between."""
    journal = turn.parts.journal
    execution = ExecutionRecord(
        tool_call_id=call_id,
        run_id=turn.run.id,
        tool=name,
        arguments_hash=arguments_hash(name, arguments),
        status="started",
        started_at=time.time(),
    )
    written = await journal.begin(execution)
    if written is not None:
        return await replay(turn, written)
    turn.call_changed(call_id, status="running", arguments=arguments)
    started = time.time_ns()
    try:
        with turn.stage("tool", name) as stage:
            result = await turn.parts.toolbox.call(name, arguments)
    except asyncio.CancelledError:
        outcome = {"error": _indeterminate(name).body()}
        await asyncio.shield(journal.finish(call_id, "indeterminate", outcome))
        raise
    except VarietError as error:
        await journal.finish(call_id, "failed", {"error": error.body()})
        turn.span("tool", name, started, input=arguments, level="ERROR", message=error.message)
        raise
    except Exception as error:  # boundary: a broken connection to a tool is told to the model
        log.exception("the call %s of %s broke", call_id, name)
        unknown = _indeterminate(name)
        await journal.finish(call_id, "indeterminate", {"error": unknown.body()})
        turn.span("tool", name, started, input=arguments, level="ERROR", message=str(error))
        raise unknown from error
    result = _cite(turn, result)
    await journal.finish(call_id, "finished", {"result": result})
    turn.call_changed(call_id, "tool_result", status="finished", result=result, ms=round(stage.ms))
    turn.span("tool", name, started, input=arguments, output=result)
    return result


async def replay(turn: Turn, written: ExecutionRecord) -> Any:
    """What the journal knows of a call that began before a crash. It is not run again."""
    outcome = written.outcome or {}
    if written.status == "finished":
        result = outcome["result"]
        if turn.progress.tool_calls.get(written.tool_call_id, {}).get("status") == "finished":
            return result  # by this very drive, which has told it already
        result = _cite(turn, result)
        turn.call_changed(written.tool_call_id, "tool_result", status="finished", result=result)
        return result
    if written.status == "failed":
        raise ToolError(**outcome["error"])
    error = _indeterminate(written.tool)
    if written.status == "started":
        await turn.parts.journal.finish(
            written.tool_call_id, "indeterminate", {"error": error.body()}
        )
    raise error


def _cite(turn: Turn, result: Any) -> Any:
    """Number citations through the whole run, and tell the followers of each."""
    found = result.get("results") if isinstance(result, dict) else None
    if not isinstance(found, list):
        return result
    numbered = []
    citations = []
    for n, hit in enumerate(found, len(turn.progress.citations) + 1):
        try:
            fields = {key: hit[key] for key in Citation.model_fields if key != "n"}
            citations.append(Citation(n=n, **fields).model_dump())
        except (KeyError, TypeError, ValidationError):
            return result
        numbered.append(hit | {"n": n})
    turn.progress.citations += citations
    for citation in citations:
        turn.emit("citation", citation)
    return result | {"results": numbered}


def _indeterminate(name: str) -> ToolError:
    return ToolError(
        "indeterminate",
        f"{name} was started and then interrupted: it may or may not have taken effect.",
        "Check its effect before you ask for it again. It was not run a second time.",
    )
