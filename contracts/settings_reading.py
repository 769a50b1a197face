"""Reads a page of settings from environment and file, and says what is wrong with it."""

import os
from collections.abc import Mapping
from errno import EISDIR
from pathlib import Path
from typing import Any, TypeVar

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings

from contracts.errors import SettingsError

REPOSITORY = Path(__file__).resolve().parent.parent
Page = TypeVar("Page", bound=BaseSettings)


def read_page(page: type[Page], overrides: Mapping[str, object]) -> Page:
    """One page of settings, from the environment and the file. Raises SettingsError that names
    each wrong key with its value, or the file that cannot be read."""
    path = env_file()
    try:
        if path.is_dir():
            raise IsADirectoryError(EISDIR, "it is a folder")
        given: dict[str, Any] = {"_env_file": path, **overrides}
        return page(**given)
    except ValidationError as error:
        raise SettingsError(
            "bad_settings", explain(error), correct_it(error, page.model_fields)
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError | UnicodeDecodeError) -> SettingsError:
    said = error.reason if isinstance(error, UnicodeDecodeError) else error.strerror
    return SettingsError(
        "bad_env_file", f"{path} cannot be read: {said}.", "Correct its owner, or its text."
    )


def header_key(key: SecretStr | None) -> SecretStr | None:
    """`key`, if it can be sent in a header. Raises ValueError, without the key."""
    if key is not None and not sendable(key.get_secret_value()):
        raise ValueError("has to be ASCII characters without spaces and line ends")
    return key


def sendable(key: str) -> bool:
    """Whether a key can be sent in a header. One that cannot is shown by the error of the library
    that refuses to send it."""
    return all("!" <= character <= "~" for character in key)


def env_file() -> Path:
    """The file of settings: VARIET_ENV_FILE, relative to the repository, else its `.env`. It need
    not exist. One checkout can so play both roles, as `docker compose --env-file` lets it."""
    return REPOSITORY / (os.environ.get("VARIET_ENV_FILE") or ".env")


def correct_it(
    error: ValidationError | None = None, fields: Mapping[str, FieldInfo] | None = None
) -> str:
    """The remedy: where to correct it, and what each key at fault means. `fields` are those of the
    page of settings that was read."""
    path = env_file()
    where = f"Correct it in {path.name if path.parent == REPOSITORY else path}."
    keys = dict.fromkeys(_key(problem) for problem in error.errors()) if error else {}
    known = fields or {}
    return " ".join([where, *(_meaning(key, known[key]) for key in keys if key in known)])


def _key(problem: ErrorDetails) -> str:
    return "_".join(str(part) for part in problem["loc"]).lower()


def _meaning(key: str, field: FieldInfo) -> str:
    return f"{key.upper()}: {field.description}."


def explain(error: ValidationError) -> str:
    """Each problem with its key and, unless it is secret, its value."""
    parts = []
    for problem in error.errors():
        key = _key(problem).upper()
        message = problem["msg"].removeprefix("Value error, ")
        secret = key.endswith(("_KEY", "_TOKEN", "_PASSWORD", "_SECRET", "_SALT", "DATABASE_URL"))
        value = "" if secret or not key else f"={problem['input']}"
        parts.append(f"{key}{value}: {message}" if key else message)
    return "; ".join(parts) + "."
