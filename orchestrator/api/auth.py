"""Who may call, decided before a request body is read.

On loopback no key is needed, but then a web page must not be able to call: the Host has to be
loopback and the Origin our own or absent. Anywhere else a bearer key is needed.
"""

import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.errors import Forbidden, SettingsError, Unauthorized, VarietError
from contracts.settings import LOOPBACK, Settings
from orchestrator.api.errors import error_response

OPEN_PATHS = frozenset({"/", "/health", "/ready"})
USER_HEADER = "x-variet-user"
MAX_BODY_BYTES = 8 * 1024 * 1024
MIN_KEY_LENGTH = 16
MAX_USER_LENGTH = 128
POLICY_VIOLATION = 1008  # close code of a WebSocket
LOCAL = "local"


class BodyTooLarge(VarietError):
    status = 413


@dataclass(frozen=True, slots=True)
class Key:
    """A named bearer key. A `surface` (a chat bot) speaks for many users and names each one."""

    name: str
    secret: str
    surface: bool = False


def load_keys(settings: Settings) -> list[Key]:
    """Keys of the settings. Raises SettingsError that names the entry at fault, and when there is
    no key though others than this machine can reach the server."""
    keys = []
    if settings.variet_api_key:
        secret = settings.variet_api_key.get_secret_value()
        if problem := _weakness(secret):
            raise SettingsError("weak_key", f"VARIET_API_KEY {problem}.", NEW_KEY)
        keys.append(Key("owner", secret))
    if settings.variet_keys_file:
        keys += _keys_of(settings.variet_keys_file, keys)
    if not keys and not settings.loopback:
        raise SettingsError(
            "no_key",
            f"BIND_ADDR={settings.bind_addr} is not loopback, and there is no key.",
            "Set VARIET_API_KEY.",
        )
    return keys


NEW_KEY = "`openssl rand -hex 24` makes a good one."
KEY_FORM = "Write `name: {key: …, surface: false}` lines."


def _keys_of(path: Path, others: list[Key]) -> list[Key]:
    names = {key.name for key in others}
    secrets = {key.secret for key in others}
    keys = []
    for name, entry in _entries(path):
        key = _key_of(path, name, entry)
        if key.name in names:
            raise _bad_file(path, f"{name} is the name of two keys")
        if key.secret in secrets:
            raise _bad_file(path, f"{name}'s key is another's too")
        names.add(key.name)
        secrets.add(key.secret)
        keys.append(key)
    return keys


def _entries(path: Path) -> Iterator[tuple[Any, Any]]:
    try:
        entries = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise _bad_file(path, f"it cannot be read: {error}") from error
    except yaml.YAMLError as error:
        # Without the parser's words, which quote the file and so the keys in it.
        raise _bad_file(path, "it is not YAML") from error
    if not isinstance(entries, dict) or not entries:
        raise _bad_file(path, "it holds no keys")
    yield from entries.items()


def _key_of(path: Path, name: Any, entry: Any) -> Key:
    if not isinstance(name, str) or not name or "/" in name:
        # A surface's users are called `surface/user`.
        raise _bad_file(path, f"{name!r} is no name: it has to be text without a slash")
    if not isinstance(entry, dict) or not isinstance(entry.get("key"), str):
        raise _bad_file(path, f"{name} has no text `key`")
    unknown = entry.keys() - {"key", "surface"}
    if unknown or not isinstance(entry.get("surface", False), bool):
        raise _bad_file(path, f"{name} has more than a `key` and `surface: true` or `false`")
    if problem := _weakness(entry["key"]):
        raise _bad_file(path, f"{name}'s key {problem}")
    return Key(name, entry["key"], entry.get("surface", False))


def _weakness(secret: str) -> str | None:
    if len(secret) < MIN_KEY_LENGTH:
        return f"is shorter than {MIN_KEY_LENGTH} characters"
    if not (secret.isascii() and secret.isprintable() and " " not in secret):
        return "has characters that do not fit into a header"
    return None


def _bad_file(path: Path, message: str) -> SettingsError:
    return SettingsError("bad_keys_file", f"VARIET_KEYS_FILE={path}: {message}.", KEY_FORM)


class Gate:
    """ASGI middleware: sets `state.owner`, or answers 401, 403 or 413."""

    def __init__(self, app: ASGIApp, keys: list[Key], loopback: bool) -> None:
        self._app = app
        self._keys = keys
        self._loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            scope.setdefault("state", {})["owner"] = self._owner(scope["path"], headers)
            length = headers.get("content-length", "0")
            if length.isdigit() and int(length) > MAX_BODY_BYTES:
                raise BodyTooLarge("too_large", TOO_LARGE, "Send less at once.")
        except VarietError as error:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": POLICY_VIOLATION})
                return
            await error_response(scope["path"], error)(scope, receive, send)
            return
        await self._app(scope, _bounded(receive), send)

    def _owner(self, path: str, headers: Headers) -> str | None:
        """The caller's name; None for one without a key on a route that is open."""
        self._check_origin(headers)
        key = self._key(headers)
        user = headers.get(USER_HEADER)
        if key is None and self._keys:
            if path in OPEN_PATHS:
                return None
            raise Unauthorized(
                "unauthorized",
                "The bearer key is missing or wrong.",
                "Send `Authorization: Bearer KEY` with VARIET_API_KEY or a key of the file.",
            )
        name = key.name if key else LOCAL
        if user is None:
            return name
        if key is None or not key.surface:
            raise Forbidden(
                "not_a_surface",
                f"{name} may not name a user ({USER_HEADER}={user[:MAX_USER_LENGTH]!r}).",
                "Use a key with `surface: true` in VARIET_KEYS_FILE, or leave the header out.",
            )
        if not user or len(user) > MAX_USER_LENGTH:
            raise Forbidden(
                "bad_user",
                f"{USER_HEADER} has {len(user)} characters.",
                f"Send 1 to {MAX_USER_LENGTH}.",
            )
        return f"{name}/{user}"

    def _check_origin(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if self._loopback and _hostname(host) not in LOOPBACK:
            raise Forbidden(
                "bad_host",
                f"Host={host!r} is not a loopback name.",
                "Call http://127.0.0.1, or set BIND_ADDR and a key.",
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise Forbidden(
                "bad_origin",
                f"Origin={origin!r} is not this server's.",
                "Open the page that this server serves.",
            )

    def _key(self, headers: Headers) -> Key | None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        secret = given.strip().encode()
        # All keys are compared, each in constant time.
        matches = [k for k in self._keys if hmac.compare_digest(k.secret.encode(), secret)]
        return matches[0] if matches else None


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


TOO_LARGE = f"The body is larger than {MAX_BODY_BYTES} bytes."


def _bounded(receive: Receive) -> Receive:
    """Counts what arrives, for bodies that do not say their length."""
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAX_BODY_BYTES:
            # This kind, because FastAPI turns any other into a 400 while it reads a body.
            raise HTTPException(413, TOO_LARGE.removesuffix("."))
        return message

    return bounded


def require_owner(state: Any) -> str:
    """The caller's name. Raises Unauthorized on an open route that was called without a key."""
    owner = getattr(state, "owner", None)
    if owner is None:
        raise Unauthorized("unauthorized", "The bearer key is missing.", "Send one.")
    return str(owner)
