"""What the scheduler asks for, done: requests are let in or refused, owners get their commands."""

import logging
from collections.abc import Callable, Mapping

from services.gateway.gate import Refused, Upstream
from services.gateway.owners import Owner
from services.gateway.scheduling.types import Refusal, Rest, Ticket
from services.gateway.status import progress_of
from services.gateway.waiting import WaitingRoom

LOG = logging.getLogger(__name__)


class Deeds:
    """The effects. `give_back` tells the scheduler that a grant had no user; `wanted` is told of
    each engine that a request goes to, `goes` of each that is to go."""

    def __init__(
        self,
        waiting: WaitingRoom,
        owners: Mapping[str, Owner],
        give_back: Callable[[int], None],
        wanted: Callable[[str], None],
        goes: Callable[[str], None],
    ) -> None:
        self._waiting = waiting
        self._owners = owners
        self._give_back = give_back
        self._wanted = wanted
        self._goes = goes

    def grant(self, ticket: Ticket) -> None:
        waiting, owner = self._waiting.leave(ticket.id), self._owners[ticket.engine]
        if waiting is None or waiting.granted.done():
            # Its client left at this very moment: the grant has no user.
            self._give_back(ticket.id)
            return
        running = owner.running
        if running is None:
            self._give_back(ticket.id)
            waiting.granted.set_exception(_gone(ticket.engine))
            return
        self._wanted(ticket.engine)
        waiting.tell(progress_of(ticket.engine, None, owner))
        upstream = Upstream(owner.spec, running.base_url, running.key, running.context)
        waiting.granted.set_result(upstream)

    def refuse(self, ticket: Ticket, refusal: Refusal) -> None:
        waiting = self._waiting.leave(ticket.id)
        if waiting is None or waiting.granted.done():
            return
        error = refusal.error
        told = {"engine": ticket.engine, "request_id": waiting.request_id, "code": error.code}
        LOG.info("request refused", extra=told)
        waiting.granted.set_exception(refused(refusal))

    def load(self, engine: str, attempt: int) -> None:
        self._owners[engine].load(attempt)

    def abort_load(self, engine: str) -> None:
        self._owners[engine].abort_load()

    def unload(self, engine: str, rest: Rest, reason: str) -> None:
        self._goes(engine)
        self._owners[engine].unload(rest, reason)


def refused(refusal: Refusal) -> Refused:
    error = refusal.error
    return Refused(refusal.status, error.code, error.message, error.remedy, refusal.retry_after_s)


def _gone(engine: str) -> Refused:
    return Refused(
        503, "engine_died", f"{engine} has just ended by itself.", "Ask again.", retry_after_s=1.0
    )
