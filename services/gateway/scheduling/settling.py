"""What follows from how things stand: the four steps that the scheduler takes after each event."""

from services.gateway.scheduling import refusals
from services.gateway.scheduling.amounts import lacking, minus, plus
from services.gateway.scheduling.eviction import may_sleep, victims
from services.gateway.scheduling.line import Waiter
from services.gateway.scheduling.pool import Pool
from services.gateway.scheduling.record import Record


def settle(pool: Pool, now: float) -> None:
    """Bring everything to rest. It ends: only an engine that stops draining leads to a second
    round, and it drains again only after it has let somebody in."""
    while True:
        expire(pool, now)
        serve(pool, now)
        drop(pool, now)
        if not make_room(pool, now):
            return


def expire(pool: Pool, now: float) -> None:
    """Refuse who waited too long, and who waits for what cannot be loaded."""
    if not pool.waiting:
        return
    for engine in pool:
        _time_out(pool, engine, now)
        if engine.wanted and engine.lacking and (refusal := pool.hopeless(engine, now)):
            pool.refuse_all(engine, refusal)


def _time_out(pool: Pool, engine: Record, now: float) -> None:
    limits = pool.limits
    for waiter in tuple(engine.line.due(now, limits.queue_timeout_s)):
        refusal = refusals.waited(engine.name, limits, pool.patience(engine))
        pool.refuse(engine, waiter, refusal)


def serve(pool: Pool, now: float) -> None:
    """Let in whoever waits for an engine that is ready. This comes before room is made: an engine
    that was just loaded serves those it was loaded for before it can be anybody's victim."""
    for engine in pool:
        if engine.state != "ready" or engine.leave is not None:
            continue
        while len(engine.granted) < engine.target.concurrency:
            waiter = engine.line.first(now, pool.limits.max_wait_s)
            if waiter is None:
                break
            engine.line.remove(waiter)
            pool.waiting -= 1
            grant(pool, engine, waiter, now)


def grant(pool: Pool, engine: Record, waiter: Waiter, now: float) -> None:
    waiter.granted_at = now
    engine.granted[waiter.ticket.id] = waiter
    engine.used_at = now
    pool.effects.grant(waiter.ticket)


def drop(pool: Pool, now: float) -> None:
    """End what is not wanted: loads that nobody waits for, what was told to leave, what is idle."""
    for engine in pool:
        if engine.state == "stopped" and not engine.wanted:
            engine.attempt = 1
        elif engine.state == "loading":
            _abort(pool, engine)
        elif engine.leave is not None:
            _leave(pool, engine, engine.leave, now)
        elif pool.locked is None and (at := engine.expires_at) is not None and now >= at:
            rests = may_sleep(engine, pool.free(), plus(pool.free(), engine.held))
            pool.unload(engine, "asleep" if rests else "stopped", "idle", now)


def _abort(pool: Pool, engine: Record) -> None:
    if not engine.aborting and (engine.leave is not None or not engine.wanted):
        engine.aborting = True
        pool.effects.abort_load(engine.name)


def _leave(pool: Pool, engine: Record, reason: str, now: float) -> None:
    if engine.state == "ready":
        engine.enter("draining", now)
    if engine.state == "asleep" or (engine.state == "draining" and not engine.granted):
        pool.unload(engine, "stopped", reason, now)


def make_room(pool: Pool, now: float) -> bool:
    """Load what is waited for and fits; have others leave for the rest. True: one that drained is
    needed no more, and serves again.

    Whoever comes first is promised the room that is free or will be; who comes later gets what is
    left over, so that small ones cannot starve a large one."""
    spared = {e.name for e in pool if e.state == "draining" and e.leave is None}
    room = _Room(pool, now)
    if pool.waiting:
        for engine, head in _wanted(pool, now):
            room.find(engine, head)
    spared -= room.taken
    for name in spared:
        pool.engines[name].enter("ready", now)
        pool.unask(pool.engines[name])
    return bool(spared)


def _wanted(pool: Pool, now: float) -> list[tuple[Record, Waiter]]:
    """Engines that somebody waits for and that have to be loaded, with the first of those."""
    max_wait_s = pool.limits.max_wait_s
    heads = [(e, h) for e in pool if e.lacking and (h := e.head(now, max_wait_s)) is not None]
    return sorted(heads, key=lambda pair: pair[1].rank(now, max_wait_s))


class _Room:
    """The memory during one round. `free` is free now; `left` is what will be free in the end and
    is promised to nobody. `taken` are the engines that have to go for it."""

    def __init__(self, pool: Pool, now: float) -> None:
        self.pool = pool
        self.now = now
        self.free = pool.free()
        self.left = plus(self.free, pool.coming())
        self.taken: set[str] = set()

    def find(self, engine: Record, head: Waiter) -> None:
        """Load it, or have others leave for it, or promise it what there is."""
        need = engine.need
        if short := lacking(need, self.left):
            self._take(victims(self.pool, engine, head, short, self.taken, self.now), need)
        promised = not lacking(need, self.left)
        self.left = minus(self.left, need)
        if promised and not lacking(need, self.free) and self._startable(engine):
            self.pool.load(engine, self.now)
            self.free = minus(self.free, need)

    def _startable(self, engine: Record) -> bool:
        if engine.state not in ("stopped", "asleep") or engine.leave is not None:
            return False
        awaited = (self.pool.engines.get(name) for name in engine.awaits)
        return not any(e is not None and e.state == "unloading" for e in awaited)

    def _take(self, chosen: list[Record], need: dict[str, int]) -> None:
        self.taken.update(e.name for e in chosen)
        for engine in chosen:
            self.left = plus(self.left, engine.held)
        for engine in chosen:
            if engine.state == "loading":
                continue
            if engine.granted:
                if engine.state == "ready":
                    engine.enter("draining", self.now)
                continue
            self._unload(engine, need)

    def _unload(self, engine: Record, need: dict[str, int]) -> None:
        asleep = engine.target.asleep or {}
        if not may_sleep(engine, self.free, minus(self.left, need)):
            self.pool.unload(engine, "stopped", "evicted", self.now)
            return
        before = engine.held
        self.pool.unload(engine, "asleep", "evicted", self.now)
        self.free = minus(self.free, minus(engine.held, before))
        self.left = minus(self.left, asleep)
