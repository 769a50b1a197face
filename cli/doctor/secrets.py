"""The file of settings and the secrets in it: who can read it, and what can be guessed."""

import os
import stat
from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from cli.doctor.finding import Finding, failure, ok
from cli.host import secret
from cli.host.dotenv import EnvFile
from contracts.deployment import Deployment
from contracts.gateway_settings import GatewaySettings
from contracts.settings import Settings

# 128 random bits: 22 characters of base64, 32 of hexadecimal digits.
LEAST_LENGTH = 22
LEAST_DISTINCT = 8
# Typed by a person.
PASSWORD_LENGTH = 12
HEX_KEY = "LANGFUSE_ENCRYPTION_KEY"
HEX_LENGTH = 64
INIT = "Make it: variet init"
ANEW = "Empty it in the file of settings, then: variet init"
COPY = "Copy GATEWAY_API_KEY of the brain's settings: variet init --brain-key KEY"


def check_file(path: Path, uid: int) -> Finding:
    """Whether only its owner can read it, and that is who runs this (`uid`), unless root does; and
    whether each line can be read, which Compose and our own processes take differently if not."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return failure("settings file", f"{path} is missing.", "Run: variet init")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        return failure(
            "settings file",
            f"{path} holds secrets, and others can get at it (mode {mode:04o}).",
            f"chmod 600 {path}",
        )
    if found.st_uid != uid and uid != 0:
        return failure(
            "settings file",
            f"{path} belongs to user {found.st_uid}, not to you ({uid}).",
            f"sudo chown {uid} {path}",
        )
    EnvFile.read(path)
    return ok("settings file", f"{path}, mode {mode:04o}")


def check_secrets(here: Deployment, settings: Settings, gateway: GatewaySettings) -> Finding:
    """Whether each secret that the stack needs is there and long enough. None is shown."""
    pages = (here, settings, gateway)
    values = {name: _value(name, pages) for name in _needed(here, settings)}
    problems = {name: problem for name, value in values.items() if (problem := _weak(name, value))}
    if not problems:
        return ok("secrets", f"{len(values)} are set and long enough")
    remedies = {_remedy(name, values[name]): None for name in problems}
    return failure("secrets", f"{'; '.join(problems.values())}.", "; ".join(remedies))


def _needed(here: Deployment, settings: Settings) -> tuple[str, ...]:
    """Compose wants those of profiles that are off, too."""
    if here.variet_role != "hands":
        return secret.BRAIN
    copied = [name for name in secret.COPIED if name != "EMBED_KEY" or settings.embed_url]
    return (*secret.HANDS, *secret.LANGFUSE, *copied)


def _value(name: str, pages: tuple[BaseSettings, ...]) -> str:
    field = name.lower()
    return _plain(next(getattr(page, field) for page in pages if hasattr(page, field)))


def _remedy(name: str, value: str) -> str:
    if name in secret.COPIED:
        return COPY
    return ANEW if value else INIT


def _plain(value: SecretStr | None) -> str:
    return value.get_secret_value() if value else ""


def _weak(name: str, value: str) -> str:
    """What is wrong with a secret, without telling it; empty if nothing is."""
    if not value:
        return f"{name} is not set"
    if name == HEX_KEY and (len(value) != HEX_LENGTH or not _hexadecimal(value)):
        return f"{name} is not {HEX_LENGTH} hexadecimal digits"
    least = PASSWORD_LENGTH if name.endswith("ADMIN_PASSWORD") else LEAST_LENGTH
    if len(value) < least:
        return f"{name} has {len(value)} characters, fewer than {least}"
    if len(set(value)) < LEAST_DISTINCT:
        return f"{name} has only {len(set(value))} different characters"
    return ""


def _hexadecimal(value: str) -> bool:
    return not set(value.lower()) - set("0123456789abcdef")


def current_user() -> int:
    return os.geteuid()
