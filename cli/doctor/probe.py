"""One question to a server, with a plain reason when there is no answer."""

import errno
import json
import socket
import time
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx2

from cli.text import exact

CONNECT_S = 3.0
ANSWER_S = 5.0
NO_ROUTE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN)
Reason = Literal["name", "route", "refused", "timeout", "silent", "stranger"]


@dataclass(frozen=True)
class Answer:
    """`asked` and `received` are this host's time in seconds, as `time.time()` gives it."""

    status: int
    headers: dict[str, str]
    body: bytes
    asked: float
    received: float

    @property
    def refused(self) -> bool:
        """Whether it asks for a key, or for another one."""
        return self.status in (401, 403)

    def json(self) -> Any:
        """The body; None if it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


@dataclass(frozen=True)
class Silence:
    """There is no answer. `detail` is a sentence that begins with the address.

    `name`: it cannot be resolved; `route`: no way there; `refused`: nothing listens; `timeout`:
    packets vanish; `silent`: it takes the call and says nothing; `stranger`: it speaks no HTTP.
    """

    reason: Reason
    detail: str


def ask(url: str, key: str | None = None, body: dict[str, Any] | None = None) -> "Answer | Silence":
    """GET `url`, or POST `body` to it."""
    away = call(url)
    if away:
        return away
    asked = time.time()
    try:
        # A proxy of the environment is for the internet, not for the LAN.
        with httpx2.Client(timeout=ANSWER_S, trust_env=False) as http:
            response = http.request(
                "GET" if body is None else "POST",
                url,
                json=body,
                headers={"Authorization": f"Bearer {key}"} if key else {},
            )
    except httpx2.TimeoutException:
        return Silence("silent", f"{url} took the call and said nothing for {ANSWER_S:.0f} s.")
    except (httpx2.TransportError, httpx2.InvalidURL) as error:
        said = exact(str(error)) or type(error).__name__
        return Silence("stranger", f"{url} gave no HTTP answer: {said.rstrip('.')}.")
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(response.status_code, headers, response.content, asked, time.time())


def call(url: str) -> Silence | None:
    """None if something takes a TCP connection there within CONNECT_S seconds."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((host, port), CONNECT_S):
            return None
    except ValueError as error:
        return Silence("name", f"{url} is no address: {error}.")
    except TimeoutError:
        return Silence("timeout", f"{host}:{port} did not answer within {CONNECT_S:.0f} s.")
    except ConnectionRefusedError:
        return Silence("refused", f"{host}:{port} refused the connection.")
    except socket.gaierror as error:
        return Silence("name", f"{host} cannot be resolved: {error.strerror}.")
    except OSError as error:
        if error.errno in NO_ROUTE:
            return Silence("route", f"{host}:{port} cannot be reached: {error.strerror}.")
        return Silence("timeout", f"{host}:{port}: {error.strerror or error}.")


def own_address(towards: str) -> str:
    """This host's address on the way to `towards`; empty if there is no way. Sends nothing."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(towards, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as datagrams:
            datagrams.connect(address)
            return str(datagrams.getsockname()[0])
    except OSError:
        return ""
