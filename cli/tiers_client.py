"""The brain's gateway over HTTP: its admin routes, and a load's progress as it happens."""

import json
from collections.abc import Iterator
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx2
from pydantic import ValidationError

from cli.address import local_url
from cli.client import BY_STATUS
from contracts.deployment import load_deployment
from contracts.errors import EngineError, ErrorBody, ErrorEnvelope, Unavailable, VarietError
from contracts.gateway_settings import load_gateway_settings
from contracts.settings import load_settings
from contracts.tiers import Reloaded, SwapProgress, TiersStatus

ANSWER_S = 30.0
# A model that is asked to leave drains first: an answer that is being written may take long.
UNLOAD_S = 1_900.0
NO_TIERS = (
    "OPENAI_COMPAT_URL has to be the address of Variet's gateway on the brain; a single engine has"
    " no tiers to swap."
)


class Gateway:
    """Calls one gateway. Every failure is a VarietError with a remedy."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._http = httpx2.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(ANSWER_S, connect=5.0),
            trust_env=False,  # a proxy of the environment is for the internet, not for the LAN
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    def tiers(self) -> TiersStatus:
        return TiersStatus.model_validate(self._json("GET", "/tiers"))

    def unload(self, tier: str) -> None:
        self._json("POST", _route(tier, "unload"), timeout=UNLOAD_S)

    def switch(self, tier: str, what: str, on: bool) -> None:
        """`what`: pin or lock."""
        self._json("POST", _route(tier, what), json={"on": on})

    def reload(self) -> Reloaded:
        return Reloaded.model_validate(self._json("POST", "/reload"))

    def load(self, tier: str) -> Iterator[SwapProgress]:
        """Have a tier loaded; yields how far it is, and returns when it is ready. Raises what the
        gateway refused it with."""
        headers = {"accept": "text/event-stream"}
        with self._stream("POST", _route(tier, "load"), headers) as response:
            for message in httpx2.EventSource(response, max_event_size=None):
                if message.event == "progress":
                    yield SwapProgress.model_validate_json(message.data)
                elif message.event == "error":
                    raise _told(message.data.encode(), VarietError) or self._stranger(200)
                elif message.event == "done":
                    return
        raise EngineError(
            "load_broken",
            f"The gateway at {self.url} broke off while it loaded {tier}.",
            "See how it stands: variet tiers",
        )

    def logs(self, tier: str, follow: bool) -> Iterator[str]:
        """Lines of the log of its engine; with `follow`, also those to come."""
        path = _route(tier, "logs") + ("?follow=1" if follow else "")
        with self._stream("GET", path) as response:
            yield from response.iter_lines()

    def answers(self) -> bool:
        """Whether anything listens there; what it says does not matter."""
        try:
            self._http.get("/health", timeout=httpx2.Timeout(3.0))
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            return False
        except httpx2.TransportError:
            return True
        return True

    def _json(self, method: str, path: str, **more: Any) -> Any:
        try:
            response = self._http.request(method, path, **more)
            if response.is_error:
                raise self._refused(response)
            return response.json() if response.content else None
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error
        except json.JSONDecodeError as error:
            raise self._stranger(200) from error

    def _stream(self, method: str, path: str, headers: dict[str, str] | None = None) -> "_Stream":
        return _Stream(self, self._http.stream(method, path, headers=headers, timeout=None))

    def _refused(self, response: httpx2.Response) -> VarietError:
        told = _told(response.content, BY_STATUS.get(response.status_code, VarietError))
        return told or self._stranger(response.status_code)

    def _stranger(self, status: int) -> VarietError:
        return Unavailable(
            "no_gateway", f"{self.url} answered {status}, but not as the gateway does.", NO_TIERS
        )

    def _unreachable(self, error: Exception) -> VarietError:
        said = str(error) or type(error).__name__
        return Unavailable(
            "gateway_unreachable",
            f"The gateway at {self.url} does not answer: {said}.",
            "Start it on the brain with `make up`; if the brain sleeps: variet wake.",
        )


class _Stream:
    """A response that is read while it comes, with the errors of its gateway."""

    def __init__(self, gateway: Gateway, opening: Any) -> None:
        self._gateway = gateway
        self._opening = opening

    def __enter__(self) -> httpx2.Response:
        try:
            response: httpx2.Response = self._opening.__enter__()
            if response.is_error:
                response.read()
        except httpx2.TransportError as error:
            raise self._gateway._unreachable(error) from error
        if response.is_error:
            self._opening.__exit__(None, None, None)
            raise self._gateway._refused(response)
        return response

    def __exit__(self, kind: Any, error: Any, at: Any) -> None:
        self._opening.__exit__(kind, error, at)
        if isinstance(error, httpx2.TransportError):
            raise self._gateway._unreachable(error) from error


def gateway(url: str | None = None) -> Gateway:
    """The gateway at `url`, else this brain's own, else that of OPENAI_COMPAT_URL. The key is
    GATEWAY_ADMIN_KEY where there is one, else that of whoever asks the models."""
    settings, here, its = load_settings(), load_deployment(), load_gateway_settings()
    told = settings.openai_compat_url if here.variet_role != "brain" else None
    own = local_url(here.lan_ip or its.gateway_host, its.gateway_port)
    user = settings.openai_compat_key if told else its.gateway_api_key
    key = its.gateway_admin_key or user
    return Gateway(url or told or own, key.get_secret_value() if key else None)


def _route(tier: str, verb: str) -> str:
    return f"/tiers/{quote(tier, safe='')}/{verb}"


def _told(body: bytes, kind: type[VarietError]) -> VarietError | None:
    """The error that a gateway's answer or event holds; None: it is none of a gateway."""
    for form in (ErrorEnvelope, ErrorBody):
        try:
            told = form.model_validate_json(body)
        except ValidationError:
            continue
        error = told.error if isinstance(told, ErrorEnvelope) else told
        return kind(error.code, error.message, error.remedy)
    return None
