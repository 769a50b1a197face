"""Where the orchestrator is, and with which key it is called."""

import os

from cli.client import Client
from contracts.settings import load_settings

ANY_ADDRESS = frozenset({"0.0.0.0", "::", ""})


def connect(url: str | None = None, timeout: float = 30.0) -> Client:
    """A client for `url`, else VARIET_URL, else this machine's BIND_ADDR and PORT.
    The key is VARIET_API_KEY of the environment or of `.env`."""
    settings = load_settings()
    key = settings.variet_api_key.get_secret_value() if settings.variet_api_key else None
    address = url or os.environ.get("VARIET_URL") or local_url(settings.bind_addr, settings.port)
    return Client(address, key, timeout)


def local_url(bind_addr: str, port: int) -> str:
    """The address to call a server at that listens on `bind_addr`."""
    host = "127.0.0.1" if bind_addr in ANY_ADDRESS else bind_addr
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
