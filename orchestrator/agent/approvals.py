"""Decisions on approvals: one wins, the rest are told so."""

import time

from contracts.chat import ApprovalDecision, ApprovalOutcome
from contracts.errors import Conflict, NotFound, Unavailable, Unprocessable
from orchestrator.agent.runs import Runs
from orchestrator.agent.toolbox import arguments_hash
from orchestrator.store.records import ApprovalRecord, iso

STATUS = {"approve": "approved", "edit": "approved", "reject": "rejected"}


class Approvals:
    """Answers pending approvals and continues their runs."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._journal = runs.parts.journal

    async def pending(self, owner: str, limit: int = 100) -> list[ApprovalRecord]:
        now = time.time()
        found = await self._journal.approvals(owner, limit)
        return [a for a in found if a.expires_at > now]

    async def decide(
        self, approval_id: str, owner: str, decision: ApprovalDecision
    ) -> ApprovalOutcome:
        """Raises NotFound for another owner's, Conflict for a decided or expired one, Unavailable
        for a consent while the tool's server is down, Unprocessable for an edit that the tool's
        schema refuses."""
        approval = await self._journal.approval(approval_id, owner)
        if approval is None:
            raise NotFound(
                "unknown_approval",
                f"There is no approval {approval_id!r}.",
                "See GET /approvals for those that are pending.",
            )
        if approval.status == "pending" and approval.expires_at <= time.time():
            await self._settle(approval, "expired", "the clock", None, None, None)
            raise Conflict(
                "approval_expired",
                f"Approval {approval_id} expired at {iso(approval.expires_at)}.",
                "Ask again; the call counts as rejected.",
            )
        if approval.status == "pending" and decision.decision != "reject":
            self._need_the_tool(approval)
        arguments, digest = self._edited(approval, decision)
        status = STATUS[decision.decision]
        won = approval.status == "pending" and await self._settle(
            approval, status, owner, decision.comment, arguments, digest
        )
        if not won:
            now = await self._journal.approval(approval_id, owner)
            raise Conflict(
                "already_decided",
                f"Approval {approval_id} is {now.status if now else 'gone'} already.",
                "Nothing is left to decide.",
            )
        record = await self._runs.parts.store.run(approval.run_id)
        return ApprovalOutcome(
            run_id=approval.run_id, status=record.status if record else "stopped"
        )

    async def expire(self) -> None:
        """Count overdue approvals as rejected, and let their runs go on."""
        for approval in await self._journal.overdue(time.time()):
            await self._settle(approval, "expired", "the clock", None, None, None)

    async def _settle(
        self,
        approval: ApprovalRecord,
        status: str,
        decided_by: str,
        comment: str | None,
        arguments: dict[str, object] | None,
        digest: str | None,
    ) -> bool:
        won = await self._journal.decide(
            approval.id, status, decided_by, comment, arguments, digest
        )
        if won:
            await self._runs.resume(approval.run_id)
        return won

    def _need_the_tool(self, approval: ApprovalRecord) -> None:
        """A consent counts once: it would be lost on a tool that cannot be called."""
        why = self._runs.parts.toolbox.absent(approval.tool)
        if why is not None:
            raise Unavailable(
                "tool_unavailable",
                f"{approval.tool} cannot be called now: {why}.",
                f"Approve once it is back; {approval.id} stays pending until then.",
            )

    def _edited(
        self, approval: ApprovalRecord, decision: ApprovalDecision
    ) -> tuple[dict[str, object] | None, str | None]:
        if decision.decision != "edit":
            if decision.arguments is not None:
                raise Unprocessable(
                    "bad_decision",
                    f"arguments came with decision={decision.decision}.",
                    "Send decision: edit to change the arguments.",
                )
            return None, None
        if decision.arguments is None:
            raise Unprocessable(
                "bad_decision", "decision=edit came without arguments.", "Send the new arguments."
            )
        self._runs.parts.toolbox.check_arguments(approval.tool, decision.arguments)
        return decision.arguments, arguments_hash(approval.tool, decision.arguments)
