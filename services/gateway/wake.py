"""Lets the brain sleep once nobody has asked it anything for long. It is woken by Wake-on-LAN.

Off unless BRAIN_SLEEP_AFTER_S and BRAIN_SLEEP_COMMAND are set. The command is a command line, not a
shell's, and comes from the settings only. In a container it cannot suspend the host by itself: see
README.md for what it can do there.
"""

import asyncio
import logging
import shlex
from collections.abc import Callable
from typing import Protocol

from contracts.errors import SettingsError

LOG = logging.getLogger(__name__)
COMMAND_TIMEOUT_S = 60.0


class Activity(Protocol):
    """`last_activity` is when a request last came or ended, on the loop's clock."""

    @property
    def last_activity(self) -> float: ...

    def busy(self) -> bool:
        """Whether a request is here, or an engine comes or goes."""


def sleep_command(command: str | None) -> tuple[str, ...]:
    """The words of a command line. Raises SettingsError where there are none."""
    try:
        words = tuple(shlex.split(command or ""))
    except ValueError as error:
        raise _wrong(f"{error}") from error
    if not words:
        raise _wrong("there is no command")
    return words


class SleepAfterIdle:
    """Runs `words` once per idle period of `after_s`."""

    def __init__(
        self,
        words: tuple[str, ...],
        after_s: float,
        activity: Activity,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._words = words
        self._after_s = after_s
        self._activity = activity
        self._clock = clock or asyncio.get_running_loop().time
        self._slept_at: float | None = None

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self.wait_s())
            await self.sleep_if_due()

    async def sleep_if_due(self) -> bool:
        if not self.due():
            return False
        self._slept_at = self._activity.last_activity
        await self._sleep()
        return True

    def due(self) -> bool:
        quiet = self._clock() - self._activity.last_activity >= self._after_s
        return quiet and not self._activity.busy() and not self._done()

    def wait_s(self) -> float:
        """Until it may be due; where it cannot be now, no sooner than a whole period from now."""
        if self._done() or self._activity.busy():
            return self._after_s
        return max(0.0, self._activity.last_activity + self._after_s - self._clock())

    def _done(self) -> bool:
        return self._slept_at == self._activity.last_activity

    async def _sleep(self) -> None:
        shown = shlex.join(self._words)
        LOG.info("brain may sleep", extra={"command": shown, "idle_s": self._after_s})
        try:
            process = await asyncio.create_subprocess_exec(
                *self._words, stdin=asyncio.subprocess.DEVNULL
            )
        except OSError as error:
            LOG.error("BRAIN_SLEEP_COMMAND cannot be run", extra={"error": str(error)})
            return
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                code = await process.wait()
        except TimeoutError:
            process.kill()
            code = await process.wait()
        LOG.info("BRAIN_SLEEP_COMMAND ended", extra={"command": shown, "code": code})


def _wrong(why: str) -> SettingsError:
    return SettingsError(
        "bad_sleep_command",
        f"BRAIN_SLEEP_COMMAND cannot be run: {why}.",
        "Set it to a command line, as `systemctl suspend`, or BRAIN_SLEEP_AFTER_S to 0.",
    )
