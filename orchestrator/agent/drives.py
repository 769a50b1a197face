"""The drives of this process: each run that it drives has a task here until it has settled."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from contracts.errors import VarietError
from orchestrator.agent.drive import Drive
from orchestrator.agent.turn import Parts
from orchestrator.store.records import RunRecord

HAND_OVER_S = 5.0
FOREIGN_POLL_S = 0.5

log = logging.getLogger(__name__)


class Drives:
    """Starts drives, attends to them and ends them. `go_on` is called with each that settled."""

    def __init__(self, parts: Parts, go_on: Callable[[Drive], Awaitable[None]]) -> None:
        self._parts = parts
        self._go_on = go_on
        self._live: dict[str, Drive] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unsettled: list[Drive] = []
        self._news = asyncio.Event()
        self.closing = False

    def __len__(self) -> int:
        return len(self._live)

    def get(self, run_id: str) -> Drive | None:
        return self._live.get(run_id)

    def start(self, run: RunRecord, last_event: int = 0) -> Drive:
        """Drive a run that is this process's, numbering its events after `last_event`."""
        drive = Drive(self._parts, run, last_event)
        self._live[run.id] = drive
        drive.begin()
        task = asyncio.create_task(self._attend(drive), name=f"attend {run.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.tell()
        return drive

    async def retry(self) -> None:
        """Write down the ends that could not be written before: the disk may have room again."""
        for drive in list(self._unsettled):
            try:
                await drive.retry()
            except VarietError as error:
                log.warning("run %s: %s", drive.run_id, error)
                continue
            self._unsettled.remove(drive)
            self.tell()
            await self._go_on(drive)

    async def close(self, drain_s: float) -> None:
        """Let those that run end for `drain_s`, hand over those that have not. Called again
        meanwhile with a shorter time, it hands over sooner."""
        self.closing = True
        self.tell()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=drain_s)
        for drive in self._live.values():
            drive.hand_over()
        if self._tasks:
            _, stuck = await asyncio.wait(set(self._tasks), timeout=HAND_OVER_S)
            for task in stuck:
                log.warning("%s does not end; it is left behind", task.get_name())

    @property
    def news(self) -> asyncio.Event:
        """Set when the next drive begins or ends. Take it before looking, then wait for it."""
        return self._news

    def tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _attend(self, drive: Drive) -> None:
        try:
            await drive.finish()
            await self._go_on(drive)
        except VarietError as error:
            log.error("run %s: %s", drive.run_id, error)
            self._left_open(drive, error)
        except Exception as error:  # boundary: a defect must not leave its waiters waiting
            log.exception("the end of run %s", drive.run_id)
            self._left_open(drive, VarietError("internal", str(error), "See the log; report it."))
        finally:
            if self._live.get(drive.run_id) is drive:
                del self._live[drive.run_id]
            drive.done.set()
            self.tell()

    def _left_open(self, drive: Drive, error: VarietError) -> None:
        if drive.response is None and not self.closing:
            drive.failure = error
            self._unsettled.append(drive)


async def heard(news: asyncio.Event) -> None:
    """Wait for news, at most FOREIGN_POLL_S: another process has no way to tell."""
    with suppress(TimeoutError):
        async with asyncio.timeout(FOREIGN_POLL_S):
            await news.wait()
