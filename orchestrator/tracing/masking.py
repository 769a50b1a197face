"""Takes secrets out of what is traced.

A value is masked when its key names a secret: in mappings, in JSON inside strings (tool calls carry
their arguments so), and in text of the form `NAME=value` or `name: value`. HTTP credentials are
masked wherever they stand.
"""

import json
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

MASK = "***"

_WORDS = frozenset(
    {"password", "passwd", "passphrase", "pwd", "secret", "secrets", "token", "bearer"}
    | {"authorization", "cookie", "credential", "credentials"}
    | {"apikey", "privatekey", "accesskey", "secretkey"}
)
_KEY_KINDS = frozenset({"api", "private", "access", "secret", "session", "signing", "encryption"})
_HINTS = frozenset(
    {"passw", "passphrase", "pwd", "secret", "token", "credential", "key"}
    | {"bearer", "basic", "authorization", "cookie"}
)
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_ASSIGNMENT = re.compile(
    r"""(?<![\w-])([A-Za-z][\w-]{0,60})(["']?\s{0,4}[=:]\s{0,4})"""
    r"""("[^"\r\n]*"|'[^'\r\n]*'|["']?[^\s"',;&]+)"""
)
_HEADER = re.compile(r"""\b((?:authorization|cookie)["']?\s*[=:]\s*["']?)[^\r\n"']+""", re.I)
_CREDENTIAL = re.compile(r"\b(Bearer|Basic)\s+(?=[\w.~+/=-]*\d)[\w.~+/=-]{8,}", re.I)
_DEPTH = 40


def mask(value: Any) -> Any:
    """A copy of `value` without its secrets. What is nested deeper than 40 levels is masked."""
    return _mask(value, _DEPTH)


def names_secret(key: str) -> bool:
    """Whether a key of this name holds a secret: `api_key` does, `max_tokens` and `key` do not."""
    parts = [part.lower() for part in _PART.findall(key)]
    if _WORDS.intersection(parts):
        return True
    return any(kind in _KEY_KINDS and noun == "key" for kind, noun in pairwise(parts))


def _mask(value: Any, depth: int) -> Any:
    if depth == 0:
        return MASK
    if isinstance(value, Mapping):
        return {str(key): _mask_item(str(key), item, depth) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_mask(item, depth - 1) for item in value]
    if isinstance(value, str):
        return _mask_text(value, depth)
    return value


def _mask_item(key: str, value: Any, depth: int) -> Any:
    # Numbers and flags under such keys are counts and switches, not secrets.
    if names_secret(key) and not isinstance(value, int | float | None):
        return MASK
    return _mask(value, depth - 1)


def _mask_text(text: str, depth: int) -> str:
    if text[:1] in ("{", "["):
        try:
            inner = json.loads(text)
        except (ValueError, RecursionError):
            inner = None
        if inner is not None:
            masked = _mask(inner, depth - 1)
            return text if masked == inner else json.dumps(masked, ensure_ascii=False)
    # Most text holds none of the words, and looking for them is far cheaper than the patterns.
    lowered = text.lower()
    if not any(hint in lowered for hint in _HINTS):
        return text
    text = _HEADER.sub(rf"\g<1>{MASK}", text)
    text = _CREDENTIAL.sub(rf"\g<1> {MASK}", text)
    return _ASSIGNMENT.sub(_mask_assignment, text)


def _mask_assignment(match: re.Match[str]) -> str:
    if not names_secret(match[1]):
        return match[0]
    value = match[3]
    opened = value[0] if value[0] in "\"'" else ""
    closed = opened if len(value) > 1 and value.endswith(opened) else ""
    return f"{match[1]}{match[2]}{opened}{MASK}{closed}"
