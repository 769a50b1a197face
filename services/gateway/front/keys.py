"""Who may call, decided before a request's body is read.

Without GATEWAY_API_KEY the gateway listens on loopback only; then the Host has to be loopback and
the Origin our own or absent, so that a web page cannot call it.
"""

import hmac
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal
from urllib.parse import urlsplit

from contracts.errors import Forbidden, SettingsError, Unauthorized
from contracts.gateway_settings import GatewaySettings
from services.gateway.front.envelope import shown

Caller = Literal["user", "admin"]
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Keys:
    """The keys of the settings. Raises SettingsError when others than this machine could call
    without one."""

    def __init__(self, settings: GatewaySettings) -> None:
        user, admin = settings.gateway_api_key, settings.gateway_admin_key
        self._user = user.get_secret_value().encode() if user else None
        self._admin = admin.get_secret_value().encode() if admin else None
        if self._user is None and settings.gateway_host not in LOOPBACK:
            raise SettingsError(
                "no_key",
                f"GATEWAY_HOST={settings.gateway_host} is not loopback, and there is no key.",
                "Set GATEWAY_API_KEY; `openssl rand -hex 24` makes a good one.",
            )

    def check_page(self, headers: Mapping[str, str]) -> None:
        """Without a key: raises Forbidden for what a web page may have sent."""
        if self._user is not None:
            return
        host = headers.get("Host", "")
        if _hostname(host) not in LOOPBACK:
            raise Forbidden(
                "bad_host",
                f"Host={shown(host)} is not a loopback name.",
                "Call http://127.0.0.1, or set GATEWAY_API_KEY.",
            )
        origin = headers.get("Origin")
        if origin is not None and _netloc(origin) != host:
            raise Forbidden(
                "bad_origin",
                f"Origin={shown(origin)} is not this server's.",
                "Call it from a program, or set GATEWAY_API_KEY.",
            )

    def user(self, headers: Mapping[str, str]) -> Caller:
        """Whoever may ask the models. Raises Unauthorized."""
        caller = self._caller(headers)
        if caller is not None:
            return caller
        raise Unauthorized(
            "unauthorized",
            "The bearer key is missing or wrong.",
            "Send `Authorization: Bearer KEY` with GATEWAY_API_KEY.",
        )

    def admin(self, headers: Mapping[str, str]) -> Caller:
        """Whoever may load and unload them. Raises Unauthorized, Forbidden."""
        if self._admin is None:
            raise Forbidden(
                "no_admin_key",
                "This route is closed: GATEWAY_ADMIN_KEY is not set.",
                "Set GATEWAY_ADMIN_KEY and start the gateway again; `openssl rand -hex 24` makes"
                " a good one.",
            )
        caller = self._caller(headers)
        if caller == "admin":
            return caller
        if caller is None or self._user is None:
            raise Unauthorized(
                "unauthorized",
                "The admin's bearer key is missing or wrong.",
                "Send `Authorization: Bearer KEY` with GATEWAY_ADMIN_KEY.",
            )
        raise Forbidden(
            "admin_only", "GATEWAY_API_KEY may not do this.", "Send GATEWAY_ADMIN_KEY instead."
        )

    def _caller(self, headers: Mapping[str, str]) -> Caller | None:
        scheme, _, given = headers.get("Authorization", "").partition(" ")
        secret = given.strip().encode("utf-8", "surrogateescape")
        bearer = scheme.lower() == "bearer"
        # Both are compared, each in constant time.
        admin = bearer and self._admin is not None and hmac.compare_digest(self._admin, secret)
        user = bearer and self._user is not None and hmac.compare_digest(self._user, secret)
        if admin:
            return "admin"
        return "user" if user or self._user is None else None


@lru_cache(maxsize=64)
def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
