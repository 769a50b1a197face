"""Event streams line by line, and the one key in them that is renamed: an engine's thinking.

vLLM calls it `reasoning`; llama-server and what talks to it `reasoning_content`. Only that key of a
message or delta changes; every other byte stays as it came.
"""

import re
from typing import Any

import orjson

OURS = "reasoning_content"
MAX_LINE = 4 * 2**20
# A quote within JSON text carries a backslash, so this is a key wherever it matches.
KEY = re.compile(rb'(?<!\\)"reasoning"(?=\s*:)')


def renamed(text: bytes) -> bytes:
    """`text`, one JSON object of a chat answer, with the key renamed."""
    found = len(KEY.findall(text))
    if not found:
        return text
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    holders = _holders(value)
    if not holders:
        return text
    if len(holders) == found:
        return KEY.sub(b'"reasoning_content"', text)
    # The key also stands elsewhere, where it is not ours to rename.
    for holder in holders:
        holder[OURS] = holder.pop("reasoning")
    return orjson.dumps(value)


def _holders(value: Any) -> list[dict[str, Any]]:
    choices = value.get("choices") if isinstance(value, dict) else None
    parts = [
        choice.get(name)
        for choice in (choices if isinstance(choices, list) else [])
        if isinstance(choice, dict)
        for name in ("message", "delta")
    ]
    return [p for p in parts if isinstance(p, dict) and "reasoning" in p and OURS not in p]


class Lines:
    """An event stream that comes in pieces cut anywhere, given on in whole lines: where an engine
    breaks off, no half event stands before the error that tells of it."""

    def __init__(self, rename: bool) -> None:
        self._rename = rename
        self._rest = bytearray()

    def feed(self, piece: bytes) -> bytes:
        """What is whole of it by now."""
        if not self._rename and not self._rest and piece.endswith(b"\n"):
            return piece
        whole, end, rest = piece.rpartition(b"\n")
        if not end:
            self._rest += piece
            return self.rest() if len(self._rest) > MAX_LINE else b""
        text = b"".join((self._rest, whole, end))
        self._rest = bytearray(rest)
        if not self._rename or KEY.search(text) is None:
            return text
        return b"".join(_line(line) for line in text.splitlines(keepends=True))

    def rest(self) -> bytes:
        """What came after the last line's end."""
        rest = bytes(self._rest)
        self._rest.clear()
        return rest


def _line(line: bytes) -> bytes:
    if not line.startswith(b"data:"):
        return line
    at = line.find(b"{")
    if at < 0:
        return line
    text = line[at:].rstrip(b"\r\n")
    return line[:at] + renamed(text) + line[at + len(text) :]
