"""Requests that wait for one engine, in the order in which it takes them."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

from services.gateway.scheduling.types import Ticket

Rank = tuple[int, int, float, int]


@dataclass(slots=True, eq=False)
class Waiter:
    """A request from `submit` until its end, or somebody who asked for an engine alone. `number`
    orders those of one moment. `granted_at` None: it waits."""

    ticket: Ticket
    since: float
    number: int
    granted_at: float | None = None

    def overdue(self, now: float, max_wait_s: float) -> bool:
        return now >= self.since + max_wait_s

    def rank(self, now: float, max_wait_s: float) -> Rank:
        """The smallest goes first: overdue ones by age alone, so that chat cannot hold background
        back for ever; then chat before background, by age."""
        if self.overdue(now, max_wait_s):
            return (0, 0, self.since, self.number)
        return (1, int(self.ticket.priority != "chat"), self.since, self.number)


class Line:
    """First come, first served within each priority. A step costs the same however long it is."""

    __slots__ = ("background", "chat")

    def __init__(self) -> None:
        self.chat: OrderedDict[int, Waiter] = OrderedDict()
        self.background: OrderedDict[int, Waiter] = OrderedDict()

    def __len__(self) -> int:
        return len(self.chat) + len(self.background)

    def __iter__(self) -> Iterator[Waiter]:
        yield from self.chat.values()
        yield from self.background.values()

    def __contains__(self, ticket_id: int) -> bool:
        return ticket_id in self.chat or ticket_id in self.background

    def add(self, waiter: Waiter) -> None:
        part = self.chat if waiter.ticket.priority == "chat" else self.background
        part[waiter.ticket.id] = waiter

    def remove(self, waiter: Waiter) -> None:
        self.chat.pop(waiter.ticket.id, None)
        self.background.pop(waiter.ticket.id, None)

    def heads(self) -> Iterator[Waiter]:
        """The oldest of each priority."""
        for part in (self.chat, self.background):
            if part:
                yield next(iter(part.values()))

    def due(self, now: float, timeout_s: float) -> Iterator[Waiter]:
        """Those who have waited so long."""
        for part in (self.chat, self.background):
            # Each part is ordered by age.
            yield from takewhile(lambda w: now >= w.since + timeout_s, part.values())

    def first(self, now: float, max_wait_s: float) -> Waiter | None:
        return min(self.heads(), key=lambda w: w.rank(now, max_wait_s), default=None)

    def position(self, ticket_id: int) -> int:
        """From 1: chat before background, as long as nobody is overdue."""
        return [w.ticket.id for w in self].index(ticket_id) + 1
