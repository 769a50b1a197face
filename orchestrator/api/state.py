"""What routes ask for: the caller, and the parts of the running orchestrator."""

from typing import Annotated

from fastapi import Depends, Request

from orchestrator.agent.approvals import Approvals
from orchestrator.agent.runs import Runs
from orchestrator.agent.turn import Parts as RunParts
from orchestrator.api.auth import require_owner
from orchestrator.assembly import Orchestrator


# Coroutines although nothing is awaited: FastAPI calls a plain function in a thread.
async def _orchestrator(request: Request) -> Orchestrator:
    found = request.app.state.orchestrator
    assert isinstance(found, Orchestrator)
    return found


Whole = Annotated[Orchestrator, Depends(_orchestrator)]


async def _owner(request: Request) -> str:
    return require_owner(request.state)


async def _runs(whole: Whole) -> Runs:
    return whole.runs


async def _approvals(whole: Whole) -> Approvals:
    return whole.approvals


async def _parts(whole: Whole) -> RunParts:
    return whole.parts


Owner = Annotated[str, Depends(_owner)]
RunsOf = Annotated[Runs, Depends(_runs)]
ApprovalsOf = Annotated[Approvals, Depends(_approvals)]
Parts = Annotated[RunParts, Depends(_parts)]
