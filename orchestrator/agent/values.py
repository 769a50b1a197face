"""JSON values as Variet carries them: Unicode text, finite numbers, 64-bit integers, not too deep.

Python's JSON reader lets more through than can be stored, sent on or hashed the same way twice.
"""

import math
from typing import Any

DEPTH_LIMIT = 64
INTEGERS = range(-(2**63), 2**64)

Path = tuple[str | int, ...]


def flaw(value: Any) -> str | None:
    """Where and why a value cannot be carried, or None if it can."""
    return _flaw(value, ())


def mended_text(text: str) -> str:
    """The text with surrogate pairs joined and lone surrogates replaced by U+FFFD."""
    if is_text(text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def mended(value: Any) -> Any:
    """The value with all its text mended; other flaws stay."""
    return _mended(value, DEPTH_LIMIT)


def is_text(text: str) -> bool:
    """Whether a text can be written as UTF-8; lone surrogates cannot."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _flaw(value: Any, path: Path) -> str | None:
    if isinstance(value, str):
        return None if is_text(value) else _at(path, "holds half a surrogate pair")
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return None if value in INTEGERS else _at(path, "is an integer of more than 64 bits")
    if isinstance(value, float):
        return None if math.isfinite(value) else _at(path, f"is {value}, which is not JSON")
    if len(path) >= DEPTH_LIMIT:
        return _at(path[:8], f"nests deeper than {DEPTH_LIMIT} levels")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str) or not is_text(key):
                return _at(path, f"has the key {key!r}, which is no text")
            if problem := _flaw(inner, (*path, key)):
                return problem
        return None
    if isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            if problem := _flaw(inner, (*path, index)):
                return problem
        return None
    return _at(path, f"is a {type(value).__name__}, which is not JSON")


def _at(path: Path, what: str) -> str:
    return f"{'.'.join(map(str, path)) or 'the value'} {what}"


def _mended(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return mended_text(value)
    if depth == 0:
        return value
    if isinstance(value, dict):
        return {_mended(k, 0): _mended(inner, depth - 1) for k, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_mended(inner, depth - 1) for inner in value]
    return value
