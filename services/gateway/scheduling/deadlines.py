"""When the scheduler has to be woken, though nothing happens."""

from collections.abc import Iterator

from services.gateway.scheduling.pool import Pool
from services.gateway.scheduling.record import Record


def next_deadline(pool: Pool) -> float | None:
    """The first moment after `pool.now` at which something falls due; None: there is none. At some
    of them nothing has to be done in the end."""
    return min((at for at in _moments(pool) if at > pool.now), default=None)


def _moments(pool: Pool) -> Iterator[float]:
    for engine in pool:
        if pool.locked is None and (at := engine.expires_at) is not None:
            yield at
        if not pool.waiting:
            continue
        yield from _of_waiters(pool, engine)
        if engine.state in ("ready", "draining"):
            yield engine.warm_at


def _of_waiters(pool: Pool, engine: Record) -> Iterator[float]:
    for waiter in engine.waiters():
        yield waiter.since + pool.limits.max_wait_s
        if waiter is not engine.asked:
            yield waiter.since + pool.limits.queue_timeout_s
