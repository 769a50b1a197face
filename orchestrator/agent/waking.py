"""Wakes the brain when a call finds it asleep: one packet per outage, and time to wake up."""

import asyncio
import logging
import time
from urllib.parse import urlsplit

from contracts.settings import Settings
from contracts.wake import PORT, targets, wake

log = logging.getLogger(__name__)


class Waker:
    """Of one brain. `mac` None: it is left alone."""

    def __init__(self, url: str, mac: str | None, wake_s: float, port: int = PORT) -> None:
        self.mac = mac
        self.wake_s = wake_s
        self._host = urlsplit(url).hostname or ""
        self._port = port
        self._until: float | None = None

    @classmethod
    def of(cls, url: str, settings: Settings) -> "Waker":
        return cls(url, settings.brain_mac, settings.brain_wake_s)

    async def waking(self) -> bool:
        """It cannot be reached: whether it is given time to wake up. Sends the packet where that
        has not been done in this outage."""
        if self.mac is None:
            return False
        if self._until is None:
            self._until = time.monotonic() + self.wake_s
            await self._send(self.mac)
        return time.monotonic() < self._until

    def answered(self) -> None:
        """It can be reached: the outage, if there was one, is over."""
        self._until = None

    async def _send(self, mac: str) -> None:
        # In a thread, for the host's name may have to be asked for.
        addresses = await asyncio.to_thread(targets, self._host)
        sent = await asyncio.to_thread(wake, mac, addresses, self._port)
        log.info("the brain does not answer; sent a packet to wake it to %s", ", ".join(sent))
