"""Text of others on a terminal: nothing of it may steer the terminal or hide itself."""

import json
import unicodedata
from typing import Any

# Control, format (bidirectional overrides, zero-width), surrogate, private use, separators.
INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Of these, prose may keep what shapes letters and emoji and moves nothing.
JOINERS = frozenset("\u200c\u200d")


def exact(text: str) -> str:
    """Every character that a reader could not see is written as an escape: for approvals."""
    return "".join(_escape(c) if unicodedata.category(c) in INVISIBLE else c for c in text)


def prose(text: str) -> str:
    """As `exact`, but line breaks, tabs and joiners stay: for answers and documents."""
    return "".join(
        c if c in "\n\t" or c in JOINERS or unicodedata.category(c) not in INVISIBLE else _escape(c)
        for c in text
    )


def compact(value: Any, limit: int = 160) -> str:
    """JSON on one line, visible, cut to `limit` characters with the rest counted."""
    text = exact(json.dumps(_whole(value), ensure_ascii=False))
    return text if len(text) <= limit else f"{text[:limit]}… (+{len(text) - limit} characters)"


def number(value: float) -> str:
    """A number as a person writes it: no `.0`, no binary noise."""
    return f"{value:.10g}"


def duration(ms: float) -> str:
    if ms < 1:
        return f"{ms:.1f} ms"
    return f"{ms:.0f} ms" if ms < 1_000 else f"{ms / 1_000:.1f} s"


def size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1_000:
            return f"{count:.0f} {unit}"
        count /= 1_000
    return f"{count:.1f} GB"


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {k: _whole(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_whole(v) for v in value]
    return value


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
