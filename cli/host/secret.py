"""Secrets that `variet init` makes: 256 bits each, in letters that every reader takes as they are.

They stand in URLs, shells, YAML and passwords of servers that refuse some characters: hexadecimal
digits pass everywhere.
"""

import secrets
from collections.abc import Callable

Maker = Callable[[], str]
BITS = 256

BRAIN = ("GATEWAY_API_KEY", "GATEWAY_ADMIN_KEY")
HANDS = (
    "VARIET_API_KEY",
    "POSTGRES_PASSWORD",
    "QDRANT_API_KEY",
    "REDIS_PASSWORD",
    "SEARXNG_SECRET",
    "CALIBRATION_TOKEN",
    "LOGS_TOKEN",
    "WORKSPACE_TOKEN",
)
LANGFUSE = (
    "LANGFUSE_SECRET_KEY",
    "LANGFUSE_ADMIN_PASSWORD",
    "LANGFUSE_POSTGRES_PASSWORD",
    "LANGFUSE_CLICKHOUSE_PASSWORD",
    "LANGFUSE_S3_SECRET",
    "LANGFUSE_SALT",
    "LANGFUSE_ENCRYPTION_KEY",
    "LANGFUSE_NEXTAUTH_SECRET",
)
# Not secret by itself, but made with its other half.
LANGFUSE_PUBLIC = "LANGFUSE_PUBLIC_KEY"
PREFIXES = {LANGFUSE_PUBLIC: "pk-lf-", "LANGFUSE_SECRET_KEY": "sk-lf-"}
# Keys that a person copies from another host: never made here, and shown to nobody.
COPIED = ("OPENAI_COMPAT_KEY", "EMBED_KEY")
SECRET = frozenset({*BRAIN, *HANDS, *LANGFUSE, *COPIED, "HF_TOKEN", "DATABASE_URL"})


def token() -> str:
    return secrets.token_hex(BITS // 8)


def make(name: str, maker: Maker = token) -> str:
    """A new value for `name`."""
    return PREFIXES.get(name, "") + maker()


def masked(name: str, value: str) -> str:
    return "(secret)" if name in SECRET and value else value
