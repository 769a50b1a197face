"""Tools by hand, under the same policy as the agent's."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from contracts.chat import ToolOutcome, ToolPending, ToolRequest
from contracts.errors import Conflict, Forbidden, ToolError, VarietError
from orchestrator.api.body import check_value
from orchestrator.api.state import Owner, Parts, RunsOf

router = APIRouter(tags=["tools"])
PENDING: dict[int | str, dict[str, Any]] = {
    202: {"model": ToolPending, "description": "the call awaits an approval"}
}
KINDS: dict[str, type[VarietError]] = {"denied": Forbidden, "rejected": Forbidden}


@router.get("/tools/schemas")
async def schemas(owner: Owner, parts: Parts) -> list[dict[str, Any]]:
    """All tools, in the form of OpenAI's `tools`."""
    return parts.toolbox.offered(None)


@router.post("/tools/execute", response_model=ToolOutcome, responses=PENDING)
async def execute(body: ToolRequest, owner: Owner, runs: RunsOf) -> Any:
    """Call a tool. What needs a confirmation answers 202 with the approval to decide on."""
    check_value("name", body.name)
    check_value("arguments", body.arguments)
    run_id = await runs.submit_tool(body, owner)
    response = await runs.wait(run_id)
    if response.status == "awaiting_approval":
        pending = ToolPending(run_id=run_id, approval=response.approvals[0])
        return JSONResponse(pending.model_dump(mode="json"), status_code=202)
    call = response.tool_calls[0] if response.tool_calls else None
    error = call.error if call and call.error else response.error
    if error is not None:
        raise KINDS.get(error.code, ToolError)(error.code, error.message, error.remedy)
    if call is None or response.status != "completed":
        raise Conflict("stopped", f"Run {run_id} is {response.status}.", "Call the tool again.")
    return ToolOutcome(result=call.result)
