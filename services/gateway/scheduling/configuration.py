"""What a new configuration changes: only the engines that differ."""

from collections.abc import Iterable

from services.gateway.scheduling import refusals
from services.gateway.scheduling.pool import Pool
from services.gateway.scheduling.record import Record
from services.gateway.scheduling.types import Target


def add(pool: Pool, target: Target, now: float) -> Record:
    engine = Record(target, since=now, pinned=target.pinned)
    pool.engines[target.name] = engine
    return engine


def change(pool: Pool, targets: Iterable[Target], now: float) -> None:
    told = {target.name: target for target in targets}
    if pool.locked not in told:
        pool.locked = None
    for engine in tuple(pool):
        target = told.pop(engine.name, None)
        if target is None:
            _remove(pool, engine)
        else:
            _replace(pool, engine, target, now)
    for target in told.values():
        engine = add(pool, target, now)
        if target.preload:
            pool.ask(engine, now)


def forget(pool: Pool, engine: Record) -> None:
    """Once nothing of a removed engine runs any more."""
    if engine.removed and engine.state == "stopped":
        del pool.engines[engine.name]


def _remove(pool: Pool, engine: Record) -> None:
    engine.removed = True
    engine.leave = "reload"
    pool.refuse_all(engine, refusals.unknown(engine.name))
    forget(pool, engine)


def _replace(pool: Pool, engine: Record, target: Target, now: float) -> None:
    """Those who wait for it get the new one."""
    restarts = engine.removed or _differs(engine.target, target)
    if target.pinned != engine.target.pinned:
        engine.pinned = target.pinned
    engine.target = target
    engine.removed = False
    if not restarts:
        return
    engine.seen = engine.failure = engine.failed_until = engine.short_until = None
    engine.attempt, engine.deaths = 1, ()
    runs = engine.state not in ("stopped", "unloading", "asleep")
    if engine.state != "stopped":
        engine.leave = "reload"
    if target.preload or (engine.pinned and runs):
        pool.ask(engine, now)


def _differs(old: Target, new: Target) -> bool:
    if old.fingerprint or new.fingerprint:
        return old.fingerprint != new.fingerprint
    return (old.demand, old.concurrency, old.asleep) != (new.demand, new.concurrency, new.asleep)
