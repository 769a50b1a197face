"""Who has to go so that an engine can be loaded. Decides only; nothing here changes anything."""

from collections.abc import Collection, Mapping

from services.gateway.scheduling.amounts import lacking, minus, plus
from services.gateway.scheduling.line import Waiter
from services.gateway.scheduling.pool import Pool
from services.gateway.scheduling.record import Record
from services.gateway.scheduling.types import Demand


def victims(
    pool: Pool, wanted: Record, head: Waiter, short: Demand, taken: Collection[str], now: float
) -> list[Record]:
    """Engines that give back at least `short`, none of them in vain; empty: there are not enough.
    Those in `taken` go for somebody who comes first. Idle ones and sleepers come first, least
    recently used first; then those that drain already, so that no drain is begun in vain; then busy
    ones; last, loads that others wait for."""
    others = (e for e in pool if e is not wanted and e.name not in taken)
    candidates = sorted((e for e in others if evictable(pool, e, head, now)), key=_order)
    if wanted.state == "draining" and wanted.name not in taken:
        # What it replaces is its own, and goes first in any case.
        candidates.insert(0, wanted)
    chosen: list[Record] = []
    missing = dict(short)
    for engine in candidates:
        if any(engine.held.get(device) for device in missing):
            chosen.append(engine)
            missing = lacking(missing, engine.held)
        if not missing:
            return _no_more_than_needed(chosen, short)
    return []


def _order(engine: Record) -> tuple[int, float]:
    if engine.state == "loading":
        return (3, engine.since)
    if engine.state == "asleep" or engine.idle:
        return (0, engine.used_at)
    return (1 if engine.state == "draining" else 2, engine.used_at)


def _no_more_than_needed(chosen: list[Record], short: Demand) -> list[Record]:
    """The last that were chosen are the first to be let off."""
    needed = list(chosen)
    for engine in reversed(chosen):
        others: dict[str, int] = {}
        for other in needed:
            if other is not engine:
                others = plus(others, other.held)
        if not lacking(short, others):
            needed.remove(engine)
    return needed


def evictable(pool: Pool, engine: Record, head: Waiter, now: float) -> bool:
    """Whether this one's room may be had for `head`, the first of those who wait for another."""
    if engine.leave is not None:
        # It goes anyhow, but not soon: an idle one may be quicker.
        return engine.state == "draining"
    if pool.kept_by_order(engine) or engine.aborting or engine.state in ("stopped", "unloading"):
        return False
    max_wait_s = pool.limits.max_wait_s
    own = engine.head(now, max_wait_s)
    if own is not None and own.rank(now, max_wait_s) < head.rank(now, max_wait_s):
        return False
    fresh = engine.state in ("ready", "draining") and now < engine.warm_at
    if head.overdue(now, max_wait_s):
        # When more is asked than can be done, everybody is overdue: a swap for each single request
        # would make it worse.
        return not (fresh and own is not None and own.overdue(now, max_wait_s))
    if engine.state == "asleep":
        return True
    if engine.state == "loading" or fresh:
        return False
    return head.ticket.priority == "chat" or not engine.serves_chat


def may_sleep(engine: Record, free: Mapping[str, int], spare: Mapping[str, int]) -> bool:
    """Whether a victim may sleep instead: what it then holds is not needed (`spare` is what is left
    over once all have what they were promised), and there is room for it while it goes (`free`)."""
    asleep = engine.target.asleep
    if asleep is None or engine.state == "asleep":
        return False
    return not lacking(asleep, spare) and not lacking(minus(asleep, engine.held), free)
