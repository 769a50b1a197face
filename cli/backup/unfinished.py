"""The sign of a restore that has begun and not ended: a file beside `.env`. While it is there, this
host's databases, volumes and files may be of two times, and nobody may start on them."""

import os
from pathlib import Path

from contracts.errors import Conflict, StoreError
from contracts.settings_reading import env_file


def sign() -> Path:
    """The Makefile looks for the same name."""
    path = env_file()
    return path.with_name(f"{path.name}.restoring")


def begin(archive: Path) -> bool:
    """Put the sign up, on disk once this returns, with what to say of it; whether an earlier
    restore left it there, so that what this one replaces is not whole either."""
    again = sign().exists()
    try:
        with sign().open("w", encoding="utf-8") as file:
            file.write(f"{_said(archive)}\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if not again:
            end()
        raise StoreError(
            "settings_unwritable",
            f"{sign()} cannot be written: {error.strerror}. Nothing was changed.",
            "Make its folder writable, with some space on its disk.",
        ) from error
    return again


def end() -> None:
    sign().unlink(missing_ok=True)


def refuse() -> None:
    """Raises Conflict while a restore has not ended."""
    try:
        said = sign().read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return
    raise Conflict(
        "half_restored",
        said or _said("a backup"),
        "If it was killed, restore again, from that archive or another one: it first mends what"
        " was half done.",
    )


def _said(archive: object) -> str:
    return f"A restore of {archive} has not ended: what is here may be of two times."
