"""One turn of a conversation: stream it, answer its approvals, come back with the response."""

from collections.abc import Callable, Iterator

from cli.client import Client
from cli.show import RunPrinter, error_line
from contracts.chat import Approval, ApprovalDecision, ChatRequest, ChatResponse
from contracts.errors import Conflict, EngineError
from contracts.events import EndData, Event

Decide = Callable[[Approval], ApprovalDecision | None]


class Turn:
    """A run as one terminal sees it. `decide` answers an approval; None leaves it open."""

    def __init__(self, client: Client, printer: RunPrinter, decide: Decide) -> None:
        self._client = client
        self._printer = printer
        self._decide = decide
        self._seen = 0
        self.run_id: str | None = None
        self.thread_id: str | None = None
        self.model = ""
        self.deciding = False

    def ask(self, request: ChatRequest) -> ChatResponse:
        """Returns when the run has ended, or rests because an approval was left open."""
        return self._settle(self._watch(self._client.chat(request)))

    def resume(self, run_id: str) -> ChatResponse:
        """Follow a run from where this turn saw it last; for a run that was interrupted."""
        return self._settle(self._watch(self._client.follow(run_id, self._seen)))

    def _settle(self, response: ChatResponse) -> ChatResponse:
        while response.status == "awaiting_approval":
            pending = [one for one in response.approvals if one.status == "pending"]
            decided = [self._answer(one) for one in pending]
            if not all(decided) or not pending:
                return response
            response = self._watch(self._client.follow(response.run_id, self._seen))
        return response

    def _answer(self, approval: Approval) -> bool:
        self.deciding = True
        try:
            decision = self._decide(approval)
        finally:
            self.deciding = False
        if decision is None:
            return False
        try:
            self._client.decide(approval.id, decision)
        except Conflict as error:
            self._printer.note(str(error), "yellow")
        return True

    def _watch(self, events: Iterator[Event]) -> ChatResponse:
        for event in events:
            self._seen = event.id
            if event.type == "run":
                self.run_id = event.data["run_id"]
                self.thread_id = event.data["thread_id"]
                self.model = event.data["model"]
            self._printer.show(event)
            if event.type == "end":
                return EndData.model_validate(event.data).response
        raise EngineError("no_end", "The run's stream had no end.", "Look at: variet runs list")


def failure(response: ChatResponse) -> str:
    """Why a run did not complete, in one line."""
    if response.error:
        return error_line(response.error)
    return f"The run ended as {response.status}. Look at: variet runs show {response.run_id}"
