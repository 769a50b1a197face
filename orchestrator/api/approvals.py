"""Approvals: those that are pending, and decisions on them."""

from typing import Any

from fastapi import APIRouter

from contracts.chat import Approval, ApprovalDecision, ApprovalOutcome, ChatResponse
from orchestrator.agent.turn import view
from orchestrator.api.body import check_value
from orchestrator.api.page import Page
from orchestrator.api.state import ApprovalsOf, Owner, RunsOf

router = APIRouter(tags=["approvals"])


@router.get("/approvals", response_model=Page[Approval])
async def list_approvals(owner: Owner, approvals: ApprovalsOf) -> Page[Approval]:
    """The caller's pending approvals, oldest first."""
    return Page(items=[view(a) for a in await approvals.pending(owner)])


@router.post("/approvals/{approval_id}", response_model=ChatResponse | ApprovalOutcome)
async def decide(
    approval_id: str,
    decision: ApprovalDecision,
    owner: Owner,
    approvals: ApprovalsOf,
    runs: RunsOf,
) -> Any:
    """Approve, reject, or approve with edited arguments. The same run goes on. 409 if it was
    decided already; with `wait` the whole response, once the run rests or has ended."""
    check_value("arguments", decision.arguments)
    outcome = await approvals.decide(approval_id, owner, decision)
    return await runs.wait(outcome.run_id) if decision.wait else outcome
