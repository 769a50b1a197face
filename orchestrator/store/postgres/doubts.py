"""Writes of which nobody was told whether they were carried out: the server stayed away for longer
than their callers wait. What they may have left behind is put right when it is back."""

from collections.abc import Coroutine
from typing import Any, TypeVar

from contracts.errors import StoreUnavailable
from orchestrator.store.postgres.connections import Connections

TAKE_BACK = (
    "WITH said AS (DELETE FROM messages WHERE run_id = %(run)s),"
    " run AS (DELETE FROM runs WHERE id = %(run)s)"
    " DELETE FROM threads WHERE id = %(thread)s::text"
)
GIVE_UP = (
    "UPDATE runs SET process = '', lease_until = 0 WHERE id = %(run)s AND status = 'running'"
    " AND write = %(write)s"
)

T = TypeVar("T")


class Doubts:
    """Runs whose last write is in doubt, by their ids."""

    def __init__(self, connections: Connections) -> None:
        self._db = connections
        self._steps: set[str] = set()
        self._created: dict[str, str | None] = {}
        self._set_off: dict[str, str] = {}

    def about(self, run_id: str) -> bool:
        """Whether the run's last step or events were perhaps stored although it failed."""
        return run_id in self._steps

    async def step(self, run_id: str, write: Coroutine[Any, Any, T]) -> T:
        try:
            result = await write
        except StoreUnavailable:
            self._steps.add(run_id)
            raise
        self._steps.discard(run_id)
        return result

    async def creation(
        self, run_id: str, new_thread: str | None, write: Coroutine[Any, Any, T]
    ) -> T:
        try:
            return await write
        except StoreUnavailable:
            self._created[run_id] = new_thread
            raise

    async def setting_off(self, run_id: str, token: str, write: Coroutine[Any, Any, T]) -> T:
        try:
            return await write
        except StoreUnavailable:
            self._set_off[run_id] = token
            raise

    async def resolve(self) -> None:
        """Runs that were perhaps created or set off although the caller was told otherwise, so
        that nobody drives them: the first are taken back, the others given up to be claimed."""
        for run_id, thread_id in list(self._created.items()):
            await self._db.change(TAKE_BACK, {"run": run_id, "thread": thread_id})
            del self._created[run_id]
        for run_id, token in list(self._set_off.items()):
            await self._db.change(GIVE_UP, {"run": run_id, "write": token})
            del self._set_off[run_id]
