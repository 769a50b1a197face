"""What an archive says of itself. It is the archive's last member."""

from typing import Literal

from pydantic import Field

from contracts.base import Message

NAME = "manifest.json"
FORMAT = 1
Kind = Literal["settings", "state", "volume", "database", "collection"]


class Part(Message):
    """One member of the archive. `of` is what it is a copy of: a folder, volume, database or
    collection; `more` what its restore needs to know besides."""

    name: str
    kind: Kind
    of: str
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    more: dict[str, str] = {}


class Manifest(Message):
    """`format` is this page's version; `schemas` those of the stores within; `created` is ISO
    8601 in UTC; `left_out` tells what the archive does not hold."""

    format: int
    variet: str
    created: str
    role: Literal["embedded", "hands", "brain"]
    parts: list[Part]
    schemas: dict[str, int] = {}
    left_out: list[str] = []
