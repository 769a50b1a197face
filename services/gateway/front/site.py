"""The front as it listens, and how it stops: first it lets nobody in, then it lets streams end."""

import asyncio
import logging

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from contracts.errors import SettingsError
from contracts.gateway_settings import GatewaySettings
from services.gateway.front.app import Front, make_app
from services.gateway.front.limits import Limits
from services.gateway.gate import GateProtocol
from services.gateway.metrics import Metrics

MAX_HEADERS = 128
MAX_HEADER_BYTES = 16_384
BACKLOG = 512


class _Malformed(logging.Filter):
    """Keeps out what any stranger could fill the log with."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, HttpProcessingError)


http_log = logging.getLogger("services.gateway.http")
http_log.addFilter(_Malformed())


class Site:
    """The gateway's port. `start` raises SettingsError; `stop` returns when nobody is connected."""

    def __init__(
        self,
        gate: GateProtocol,
        settings: GatewaySettings,
        metrics: Metrics,
        limits: Limits | None = None,
    ) -> None:
        self._settings, self._limits = settings, limits or Limits()
        self._parts = (gate, settings, metrics)
        self._front: Front | None = None
        self._server: web.Server | None = None
        self._listener: asyncio.Server | None = None
        self.port = settings.gateway_port

    async def start(self) -> None:
        front = make_app(*self._parts, self._limits)
        server = web.Server(
            front,
            # A client that leaves ends its request, and so its engine's work. A client that only
            # closes its own direction counts as gone, too.
            handler_cancellation=True,
            access_log=None,
            logger=http_log,
            auto_decompress=False,
            keepalive_timeout=self._limits.head,
            max_headers=MAX_HEADERS,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )
        host, port = self._settings.gateway_host, self._settings.gateway_port
        loop = asyncio.get_running_loop()
        try:
            listener = await loop.create_server(
                server, host, port, reuse_address=True, backlog=BACKLOG
            )
        except OSError as error:
            await front.close()
            raise SettingsError(
                "gateway_port",
                f"GATEWAY_HOST={host}, GATEWAY_PORT={port}: cannot listen: {error.strerror}.",
                "Stop what listens there, or give another address or port.",
            ) from error
        self._front, self._server, self._listener = front, server, listener
        self.port = listener.sockets[0].getsockname()[1]

    async def stop(self, drain_s: float) -> None:
        """From now on requests are refused with 503; those that are here have `drain_s` seconds,
        and are then ended with an error. Cancelled, it ends them at once."""
        front, server, listener = self._front, self._server, self._listener
        if front is None or server is None or listener is None:
            return
        self._front = None
        front.stopping = True
        try:
            await front.emptied(drain_s)
        finally:
            front.interrupt()
            await front.emptied(self._limits.last_words)
            listener.close()
            server.pre_shutdown()
            await server.shutdown(self._limits.last_words)
            await front.close()
