"""Serves the application on a socket of its own, until a signal."""

import asyncio
import math
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from contracts.errors import SettingsError
from contracts.settings import Settings
from orchestrator.api.app import create_app
from orchestrator.assembly import Orchestrator

SIGNALS = (signal.SIGINT, signal.SIGTERM)
Announce = Callable[[str, str, list[str]], None]


async def serve(orchestrator: Orchestrator, announce: Announce) -> None:
    """Start it and serve it until SIGTERM or Ctrl-C: then runs may end for DRAIN_TIMEOUT_S, and a
    second signal ends that wait. Raises SettingsError when the address cannot be bound."""
    listener = _bind(orchestrator.settings)
    try:
        server = _server(orchestrator)
        with _signals(server, orchestrator):
            async with orchestrator:
                await _serve(server, orchestrator, listener, announce)
    finally:
        listener.close()


class _Server(uvicorn.Server):
    """Leaves signals alone. uvicorn's own way is to raise a signal once more after serving, which
    would kill the process before the orchestrator has drained its runs and stopped its parts."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _server(orchestrator: Orchestrator) -> _Server:
    # Streams end with their runs, within the drain; uvicorn's own limit is for what is no run.
    drain = math.ceil(orchestrator.settings.drain_timeout_s)
    config = uvicorn.Config(
        create_app(orchestrator),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=drain + 1,
    )
    return _Server(config)


@contextmanager
def _signals(server: _Server, orchestrator: Orchestrator) -> Iterator[None]:
    """The first signal drains, a second one hands over at once."""
    loop = asyncio.get_running_loop()
    draining: set[asyncio.Task[None]] = set()

    def stop() -> None:
        patience = 0.0 if server.should_exit else orchestrator.settings.drain_timeout_s
        server.force_exit = server.should_exit
        server.should_exit = True
        draining.add(loop.create_task(orchestrator.drain(patience)))

    for number in SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


async def _serve(
    server: _Server, orchestrator: Orchestrator, listener: socket.socket, announce: Announce
) -> None:
    bind_addr = orchestrator.settings.bind_addr

    async def say_ready() -> None:
        await orchestrator.ready.wait()
        host = f"[{bind_addr}]" if ":" in bind_addr else bind_addr
        url = f"http://{host}:{listener.getsockname()[1]}"
        announce(url, orchestrator.engine.model, orchestrator.withheld)

    waiting = asyncio.create_task(say_ready())
    try:
        await server.serve(sockets=[listener])
    finally:
        waiting.cancel()


def _bind(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.bind_addr else socket.AF_INET
    # The protocol has to be named: asyncio sets TCP_NODELAY only on sockets that name it, and
    # without it a stream's small writes wait some 40 ms for the reader's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.bind_addr, settings.port))
    except OSError as error:
        listener.close()
        raise SettingsError(
            "address_in_use",
            f"BIND_ADDR={settings.bind_addr} PORT={settings.port}: {error.strerror}.",
            "Stop what uses it, or set PORT to another one (0 takes a free one).",
        ) from error
    return listener
