"""A tool server as a process of its own: `python -m tools.NAME serve`, until SIGTERM or Ctrl-C.

It says on standard output when it is ready, with its address.
"""

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from contracts.errors import SettingsError, VarietError
from contracts.settings import Settings, load_settings
from contracts.settings_reading import sendable

if TYPE_CHECKING:
    from mcp.server import MCPServer

MIN_TOKEN_LETTERS = 16
GRACE_S = 4  # for calls that run when the signal comes; Docker kills 10 s after it
# Longer than a client keeps an idle connection: a request must not meet one that is being closed.
KEEP_ALIVE_S = 120
EVERYWHERE = ("0.0.0.0", "::", "")
MakeServer = Callable[[Settings], "MCPServer"]


def run(name: str, make_server: MakeServer) -> int:
    """Serve until a signal; the exit code. `make_server` imports what it needs."""
    try:
        settings = load_settings()
        token = _token(settings)
        _log_to_stderr(settings)
        server = make_server(settings)
        with _bind(settings) as listener:
            asyncio.run(_serve(name, server, settings, token, listener))
    except VarietError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # before the signals were ours
    return 0


async def _serve(
    name: str, server: "MCPServer", settings: Settings, token: str, listener: socket.socket
) -> None:
    import uvicorn

    from tools.app import MCP, application

    class Server(uvicorn.Server):
        """Leaves signals alone: uvicorn would raise them again, and so end with their code."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            print(json.dumps({"ready": True, "url": url, "pid": os.getpid()}), flush=True)

    host = f"[{settings.tool_host}]" if ":" in settings.tool_host else settings.tool_host
    url = f"http://{host}:{listener.getsockname()[1]}{MCP}"
    app = application(server, token, _hosts(name, host))
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )
    serving = Server(config)

    def stop() -> None:
        serving.force_exit = serving.should_exit
        serving.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await serving.serve(sockets=[listener])


def _hosts(name: str, host: str) -> list[str]:
    """Names that this server may be addressed by: in Compose its own, as a service has. A web page
    that had its name point here would send another one."""
    known = ["127.0.0.1", "localhost", "[::1]", name, socket.gethostname()]
    return known if host.strip("[]") in EVERYWHERE else [*known, host]


def _token(settings: Settings) -> str:
    token = settings.tool_token.get_secret_value() if settings.tool_token else ""
    if len(token) < MIN_TOKEN_LETTERS or not sendable(token):
        wanted = f"not {MIN_TOKEN_LETTERS} or more ASCII characters without spaces"
        what = wanted if token else "not set"
        raise SettingsError(
            "bad_token",
            f"TOOL_TOKEN is {what}: anyone who reaches this tool server could use it.",
            "Set it to a random text, `openssl rand -hex 32` say, and to the same at the caller.",
        )
    return token


def _log_to_stderr(settings: Settings) -> None:
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    # The library's own lines below a warning say what callers sent.
    for chatty in ("mcp", "uvicorn", "sse_starlette"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _bind(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.tool_host else socket.AF_INET
    # The protocol has to be named: asyncio sets TCP_NODELAY only on sockets that name it.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.tool_host, settings.tool_port))
    except OSError as error:
        listener.close()
        raise SettingsError(
            "address_in_use",
            f"TOOL_HOST={settings.tool_host} TOOL_PORT={settings.tool_port}: {error.strerror}.",
            "Stop what uses it, or set TOOL_PORT to another one (0 takes a free one).",
        ) from error
    return listener
