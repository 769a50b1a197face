"""Answers to a model's tool calls: checks, policy, approval, journal, execution.

Whatever goes wrong becomes the text of the tool's message, so that the model can mend it; only
what it keeps getting wrong ends the run.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import ToolCall

from contracts.errors import (
    Conflict,
    EngineError,
    ErrorBody,
    Forbidden,
    StoreError,
    ToolError,
    VarietError,
)
from orchestrator.agent.executions import execute, replay
from orchestrator.agent.prompt import render_tool_result, tool_result_limit
from orchestrator.agent.toolbox import arguments_hash
from orchestrator.agent.turn import Turn, view
from orchestrator.store.records import ApprovalRecord, ExecutionRecord, new_id

MALFORMED_LIMIT = 2
REPEAT_LIMIT = 3


@dataclass(frozen=True, slots=True)
class _Known:
    """What the journal holds of a run's calls, by their ids."""

    approvals: Mapping[str, ApprovalRecord]
    executions: Mapping[str, ExecutionRecord]


async def answer_calls(
    turn: Turn, calls: Sequence[ToolCall], malformed: Mapping[str, str]
) -> dict[str, str | None]:
    """The tool message's text for each call id; None where an approval is awaited."""
    known = await _known(turn)
    async with asyncio.TaskGroup() as group:
        tasks = {
            str(call["id"]): group.create_task(_answer(turn, call, malformed, known))
            for call in calls
        }
    if turn.fatal is not None:
        raise turn.fatal
    return {call_id: task.result() for call_id, task in tasks.items()}


async def close_calls(turn: Turn, calls: Sequence[ToolCall], reason: str) -> dict[str, str]:
    """The tool message's text for calls that the run's end leaves open: what the journal knows of
    them, or `reason`. Approvals that nobody can act on any more are rejected."""
    for approval in await turn.parts.journal.approvals_of(turn.run.id):
        if approval.status == "pending":
            await turn.parts.journal.decide(
                approval.id, "rejected", turn.run.owner, reason, None, None
            )
    executions = await turn.parts.journal.executions_of(turn.run.id) if calls else []
    written = {execution.tool_call_id: execution for execution in executions}
    texts = {}
    for call in calls:
        call_id = str(call["id"])
        texts[call_id] = await _closing_text(turn, call, written.get(call_id), reason)
    return texts


async def _closing_text(
    turn: Turn, call: ToolCall, written: ExecutionRecord | None, reason: str
) -> str:
    call_id = str(call["id"])
    known = {"name": call["name"], "arguments": call["args"], "status": "proposed"}
    turn.progress.tool_calls.setdefault(call_id, {"id": call_id, **known})
    try:
        if written is None:
            raise Forbidden("rejected", f"{reason} This call was not executed.", "Ask again.")
        result = await replay(turn, written)
    except VarietError as error:
        return _told(turn, call_id, error)
    return render_tool_result(result, _limit(turn))


async def _answer(
    turn: Turn,
    call: ToolCall,
    malformed: Mapping[str, str],
    known: _Known,
) -> str | None:
    call_id, name, arguments = str(call["id"]), call["name"], call["args"]
    turn.call_changed(call_id, name=name, arguments=arguments, status="proposed")
    try:
        if written := known.executions.get(call_id):
            return render_tool_result(await replay(turn, written), _limit(turn))
        if call_id in malformed:
            raise _malformed(turn, name, malformed[call_id])
        turn.parts.toolbox.check_arguments(name, arguments)
        _refuse_repetition(turn, call_id, name, arguments)
        allowed = await _allowed(turn, call_id, name, arguments, known.approvals.get(call_id))
        if allowed is None:
            return None
        result = await execute(turn, call_id, name, allowed)
    except StoreError as error:
        # What cannot be written down must not go on; the model could not mend it either.
        turn.fatal = error
        return None
    except VarietError as error:
        return _told(turn, call_id, error)
    return render_tool_result(result, _limit(turn))


def _told(turn: Turn, call_id: str, error: VarietError) -> str:
    turn.call_changed(call_id, "tool_result", status=_status_of(error), error=error.body())
    return render_tool_result({"error": error.body()}, _limit(turn))


async def _allowed(
    turn: Turn,
    call_id: str,
    name: str,
    arguments: dict[str, Any],
    approval: ApprovalRecord | None,
) -> dict[str, Any] | None:
    """The arguments to run with, or None while an approval is awaited."""
    if approval is None:
        tool = turn.parts.toolbox.tools.get(name)
        verdict = turn.parts.policy.decide(name, tool.traits if tool else None, arguments)
        if verdict.rule == "allow":
            if tool is None or not tool.traits.read_only:
                await turn.parts.store.sync()
            return arguments
        if verdict.rule == "deny":
            raise _denial(name, tool.traits.refused if tool else None)
        approval = await _propose(turn, call_id, name, arguments, verdict.reason)
    if approval.status == "pending":
        turn.call_changed(call_id, status="awaiting_approval")
        turn.emit("approval", view(approval).model_dump())
        return None
    if approval.status != "approved":
        raise _rejection(approval)
    if arguments_hash(name, approval.arguments) != approval.arguments_hash:
        raise Conflict(
            "approval_mismatch",
            f"The approval {approval.id} is for other arguments.",
            "Ask for a new approval.",
        )
    return approval.arguments


async def _propose(
    turn: Turn, call_id: str, name: str, arguments: dict[str, Any], reason: str
) -> ApprovalRecord:
    # The journal must never know of a call that the thread may lose in a power cut: the model
    # would ask for it once more, and it would run once more.
    await turn.parts.store.sync()
    now = time.time()
    approval = ApprovalRecord(
        id=new_id("appr"),
        run_id=turn.run.id,
        thread_id=turn.run.thread_id,
        owner=turn.run.owner,
        tool_call_id=call_id,
        tool=name,
        arguments=arguments,
        arguments_hash=arguments_hash(name, arguments),
        reason=reason,
        status="pending",
        created_at=now,
        expires_at=now + turn.parts.approval_ttl_s,
    )
    return await turn.parts.journal.propose(approval)


async def _known(turn: Turn) -> _Known:
    """Only a run that was continued can be in the journal already."""
    if not turn.continued:
        return _Known({}, {})
    approvals = await turn.parts.journal.approvals_of(turn.run.id)
    executions = await turn.parts.journal.executions_of(turn.run.id)
    return _Known(
        {approval.tool_call_id: approval for approval in approvals},
        {execution.tool_call_id: execution for execution in executions},
    )


def _malformed(turn: Turn, name: str, raw: str) -> VarietError:
    turn.repeats["malformed"] += 1
    if turn.repeats["malformed"] >= MALFORMED_LIMIT:
        turn.fatal = EngineError(
            "malformed_tool_call",
            f"The model called {name} with arguments that are not JSON, again after it was"
            f" told: {raw[:200]}",
            "Ask in other words, or use a larger model.",
        )
    return ToolError(
        "malformed_arguments",
        f"The arguments of {name} are not a JSON object: {raw[:200]}",
        "Call again with one JSON object.",
    )


def _refuse_repetition(turn: Turn, call_id: str, name: str, arguments: dict[str, Any]) -> None:
    if call_id in turn.counted:
        return
    turn.counted.add(call_id)
    key = arguments_hash(name, arguments)
    turn.repeats[key] += 1
    if turn.repeats[key] > REPEAT_LIMIT:
        turn.fatal = EngineError(
            "loop",
            f"The model keeps calling {name} with the same arguments.",
            "Ask in other words, or use a larger model.",
        )
    if turn.repeats[key] >= REPEAT_LIMIT:
        raise ToolError(
            "repeated_call",
            f"{name} was called {REPEAT_LIMIT} times with the same arguments.",
            "Use the result above, or say that you cannot answer.",
        )


def _denial(name: str, refused: ErrorBody | None) -> Forbidden:
    if refused is None:
        return Forbidden("denied", f"{name} is not allowed here.", "Do without it.")
    return Forbidden(refused.code, refused.message, refused.remedy)


def _rejection(approval: ApprovalRecord) -> VarietError:
    if approval.status == "expired":
        return Forbidden(
            "expired", "Nobody answered in time: the call counts as rejected.", "Do without it."
        )
    comment = f" Comment: {approval.comment}" if approval.comment else ""
    return Forbidden(
        "rejected", f"The user rejected this call.{comment}", "Do without it; nothing was changed."
    )


def _status_of(error: VarietError) -> str:
    if error.code in ("rejected", "expired"):
        return "rejected"
    return "indeterminate" if error.code == "indeterminate" else "failed"


def _limit(turn: Turn) -> int:
    return tool_result_limit(turn.parts.model.engine.context)
