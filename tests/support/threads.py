"""What a thread has to look like, whatever has happened to it."""

from collections.abc import Mapping, Sequence
from typing import Any


def check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Each call is answered once, before the next turn begins."""
    open_calls: set[str] = set()
    for message in messages:
        if message["role"] == "tool":
            open_calls.remove(message["tool_call_id"])
            continue
        assert not open_calls
        open_calls = {call["id"] for call in message.get("tool_calls") or []}
    assert not open_calls
    assert messages[-1]["role"] == "assistant"
