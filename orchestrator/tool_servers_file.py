"""TOOL_SERVERS_FILE: tool servers that are processes of their own, with their addresses."""

import os
from math import isfinite
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from dotenv import dotenv_values

from contracts.errors import SettingsError
from contracts.settings_reading import env_file, sendable
from orchestrator.agent.policy import UniqueKeys
from orchestrator.agent.tool_transport import Remote

KEYS = ("url", "token_env", "timeout_s")
# These are always in the orchestrator's own process.
OWN = ("docs",)
CORRECT_IT = "Correct the file."


def load_tool_servers(path: Path) -> dict[str, Remote]:
    """Its servers by name, in its order. Raises SettingsError that names the key and its value."""
    try:
        entries = yaml.load(path.read_text("utf-8"), Loader=UniqueKeys) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _wrong(path, f"cannot be read: {error}") from error
    if not isinstance(entries, dict):
        raise _wrong(path, "is not a mapping", "Write `name: {url: ..., token_env: ...}` lines.")
    return {_name(path, name): _remote(path, name, entry) for name, entry in entries.items()}


def _name(path: Path, name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise _wrong(path, f"{name!r} is not a name", "Put the name in quotes.")
    if name in OWN:
        raise _wrong(path, f"{name} is always in the orchestrator", "Take it out of the file.")
    return name


def _remote(path: Path, name: str, entry: Any) -> Remote:
    if not isinstance(entry, dict):
        raise _wrong(path, f"{name}={entry!r} is not a mapping")
    for key in entry:
        if key not in KEYS:
            raise _wrong(path, f"{name}.{key} is unknown", f"The keys are {', '.join(KEYS)}.")
    token_env = entry.get("token_env", "")
    return Remote(
        url=_url(path, name, entry.get("url")),
        token=_token(path, name, token_env),
        token_env=token_env,
        timeout_s=_timeout(path, name, entry.get("timeout_s")),
        said_in=f"{name} in TOOL_SERVERS_FILE={path}",
    )


def _url(path: Path, name: str, url: Any) -> str:
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        usable = parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname)
        open_secret = parts is not None and parts.username is not None
        _ = parts and parts.port
    except ValueError:
        usable = open_secret = False
    if open_secret:
        raise _wrong(path, f"{name}.url holds a user name", "Name the token's variable instead.")
    if not usable:
        raise _wrong(path, f"{name}.url={url!r} is not the address of a server over HTTP")
    return str(url)


def _token(path: Path, name: str, variable: Any) -> str:
    """The token, from the environment or the file of settings. Its value is in no error."""
    if not isinstance(variable, str):
        raise _wrong(path, f"{name}.token_env={variable!r} is not the name of a variable")
    if not variable:
        return ""
    token = os.environ.get(variable) or dotenv_values(env_file()).get(variable) or ""
    if not token:
        raise _wrong(
            path,
            f"{name}.token_env={variable}: no such variable is set",
            f"Set {variable} to the TOOL_TOKEN of that server.",
        )
    if not sendable(token):
        raise _wrong(
            path,
            f"{name}.token_env={variable}: what it holds cannot be a token",
            f"Set {variable} to ASCII characters without spaces.",
        )
    return token


def _timeout(path: Path, name: str, timeout: Any) -> float | None:
    if timeout is None:
        return None
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not number or not isfinite(timeout) or timeout <= 0:
        raise _wrong(path, f"{name}.timeout_s={timeout!r} is not a number of seconds above 0")
    return float(timeout)


def _wrong(path: Path, what: str, remedy: str = CORRECT_IT) -> SettingsError:
    colon = "" if what.startswith(("is ", "cannot ")) else ":"
    return SettingsError("bad_tool_servers", f"TOOL_SERVERS_FILE={path}{colon} {what}.", remedy)
