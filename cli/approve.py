"""Ways to answer an approval: at the terminal, or by a rule that says so aloud."""

import json
from collections.abc import Callable
from typing import Any

from rich.console import Console

from cli import show
from cli.show import line
from cli.text import prose
from contracts.chat import Approval, ApprovalDecision

Read = Callable[[str], str]
KEYS = "  approve? [y]es, [n]o, [e]dit the arguments, /stop: "


class AtTerminal:
    """Asks the person. `read` shows a prompt and returns a line; end of input leaves it open."""

    def __init__(self, console: Console, read: Read, stop: Callable[[str], None]) -> None:
        self._console = console
        self._read = read
        self._stop = stop

    def __call__(self, approval: Approval) -> ApprovalDecision | None:
        show.approval(self._console, approval)
        while True:
            try:
                answer = self._read(KEYS).strip()
            except EOFError:
                return None
            match answer.lower():
                case "y" | "yes":
                    return ApprovalDecision(decision="approve")
                case "n" | "no":
                    return ApprovalDecision(decision="reject", comment=self._comment())
                case "e" | "edit":
                    edited = self._edited(approval.arguments)
                    if edited is not None:
                        return ApprovalDecision(decision="edit", arguments=edited)
                case "/stop":
                    self._stop(approval.run_id)
                    return None

    def _comment(self) -> str | None:
        try:
            return self._read("  why? (Enter for no reason) ").strip()[:4_000] or None
        except EOFError:
            return None

    def _edited(self, arguments: dict[str, Any]) -> dict[str, Any] | None:
        line(self._console, f"  now: {prose(json.dumps(arguments, ensure_ascii=False))}")
        try:
            text = self._read("  new arguments as JSON (Enter keeps them): ").strip()
            edited = json.loads(text) if text else None
        except (EOFError, json.JSONDecodeError) as error:
            line(self._console, f"  Not JSON: {error}", "red")
            return None
        if edited is None or isinstance(edited, dict):
            return edited
        line(self._console, '  The arguments have to be an object: {"name": value}', "red")
        return None


class RejectAloud:
    """Shows the call and rejects it: nobody is there to ask."""

    def __init__(self, console: Console, reason: str) -> None:
        self._console = console
        self._reason = reason
        self.rejected = 0

    def __call__(self, approval: Approval) -> ApprovalDecision:
        self.rejected += 1
        show.approval(self._console, approval)
        line(self._console, f"  rejected: {self._reason}", "yellow")
        return ApprovalDecision(decision="reject", comment=self._reason)


def leave_open(_: Approval) -> None:
    """Answered later, with `variet approvals answer`."""
