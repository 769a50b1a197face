"""Which orchestrators are there: each connection of one holds a lock that names its process.

A killed process loses its connections and so its locks, at once: the next one need not wait for
the leases to run out. Who is there but has stopped renewing loses its runs by the lease alone.
"""

import asyncio
import zlib
from collections.abc import Iterable

from orchestrator.store.postgres.connections import Connections

LOCK_SPACE = 0x56415249  # the first half of the lock's key, "VARI"; the second names the process
HOLD = "SELECT pg_advisory_lock_shared(%s, %s)"
HELD = (
    "SELECT objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND classid = %(space)s::oid"
    " AND objsubid = 2 AND granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
GRACE_S = 1.0  # the server may still be at work on the last statement of a killed process
POLL_S = 0.05


class Presence:
    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._process: str | None = None

    async def hold(self, process: str) -> None:
        """Let every connection from now on tell that this process is there."""
        if process != self._process:
            key = _key(process)
            signed = key - 2**32 if key >= 2**31 else key
            await self._connections.greet(HOLD, (LOCK_SPACE, signed))
            self._process = process

    async def gone(self, processes: Iterable[str]) -> list[str]:
        """Those of the processes that are not there, or go away within GRACE_S."""
        keys = {process: _key(process) for process in processes}
        loop = asyncio.get_running_loop()
        deadline = loop.time() + GRACE_S
        while True:
            held = {row[0] for row in await self._connections.read(HELD, {"space": LOCK_SPACE})}
            there = [process for process, key in keys.items() if key in held]
            if not there or loop.time() > deadline:
                return [process for process in keys if process not in there]
            await asyncio.sleep(POLL_S)


def _key(process: str) -> int:
    return zlib.crc32(process.encode())
