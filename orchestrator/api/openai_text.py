"""A run's events in the words of a chat completion.

Chat completions know neither tool activity on the server's side nor approvals: both are written
into the answer, as a quoted note and as a line that says what to send to approve.
"""

import re
import time
import unicodedata
from collections.abc import AsyncIterator
from typing import Any, Literal

import orjson

from contracts.chat import ChatResponse
from orchestrator.agent.log import LoggedEvent

DECISION = re.compile(r"/(approve|reject) (appr_[0-9a-f]+)")
ARGUMENT_LIMIT = 300
HIDDEN = frozenset({"Cc", "Cf", "Cn", "Co", "Zl", "Zp"})  # Unicode's categories


def decision_of(text: str) -> tuple[Literal["approve", "reject"], str] | None:
    """`/approve ID` or `/reject ID`, exactly that; anything else is a message."""
    match = DECISION.fullmatch(text.strip())
    if match is None:
        return None
    return ("approve" if match[1] == "approve" else "reject"), match[2]


class Reply:
    """Collects one run's answer and writes it as chunks or as a whole."""

    def __init__(self, run_id: str, structured: bool) -> None:
        self._id = f"chatcmpl-{run_id}"
        self._created = int(time.time())
        self._structured = structured
        self._text: list[str] = []
        self._noted: set[str] = set()

    def take(self, event: LoggedEvent) -> str:
        """The text that an event adds to the answer."""
        added = self._words(event)
        self._text.append(added)
        return added

    async def stream(
        self, events: AsyncIterator[LoggedEvent | None], usage: bool
    ) -> AsyncIterator[bytes | None]:
        """Chunks, the last one followed by `[DONE]`; a failed run ends with an error instead."""
        yield self._chunk({"role": "assistant", "content": ""})
        async for event in events:
            if event is None:
                yield None
                continue
            if event.type == "error":
                error = orjson.loads(event.data)
                message = f"{error['message']} {error['remedy']}"
                body = {"message": message, "type": "server_error", "code": error["code"]}
                yield b"data: " + orjson.dumps({"error": body}) + b"\n\n"
                return
            if text := self.take(event):
                yield self._chunk({"content": text})
            if event.type == "end":
                response = ChatResponse.model_validate(orjson.loads(event.data)["response"])
                yield self._chunk({}, finish="stop", model=response.model)
                if usage:
                    yield self._usage_chunk(response)
        yield b"data: [DONE]\n\n"

    def whole(self, response: ChatResponse) -> dict[str, Any]:
        content = "".join(self._text)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": content},
            "finish_reason": "stop",
            "logprobs": None,
        }
        return {
            "id": self._id,
            "object": "chat.completion",
            "created": self._created,
            "model": response.model,
            "choices": [choice],
            "usage": _usage(response),
            "metadata": {"thread_id": response.thread_id, "run_id": response.run_id},
        }

    def _words(self, event: LoggedEvent) -> str:
        if event.type == "token" and not self._structured:
            return str(orjson.loads(event.data)["text"])
        if event.type == "tool_call" and not self._structured:
            return self._note(orjson.loads(event.data))
        if event.type == "approval":
            return _question(orjson.loads(event.data))
        if event.type == "end" and self._structured:
            structured = orjson.loads(event.data)["response"]["structured"]
            return orjson.dumps(structured).decode() if structured is not None else ""
        return ""

    def _note(self, call: dict[str, Any]) -> str:
        if call["status"] != "running" or call["id"] in self._noted:
            return ""
        self._noted.add(call["id"])
        return f"> {call['name']} {_short(call['arguments'])}\n\n"

    def _chunk(
        self, delta: dict[str, Any], finish: str | None = None, model: str = "variet"
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return self._data({"model": model, "choices": [choice]})

    def _usage_chunk(self, response: ChatResponse) -> bytes:
        return self._data({"model": response.model, "choices": [], "usage": _usage(response)})

    def _data(self, fields: dict[str, Any]) -> bytes:
        body = {"id": self._id, "object": "chat.completion.chunk", "created": self._created}
        return b"data: " + orjson.dumps(body | fields) + b"\n\n"


def _question(approval: dict[str, Any]) -> str:
    return (
        f"\n\nApproval needed: {approval['tool']} {_short(approval['arguments'])}"
        f" ({approval['reason']}).\nSend exactly `/approve {approval['id']}` or"
        f" `/reject {approval['id']}`.\n"
    )


def _short(arguments: dict[str, Any]) -> str:
    text = "".join(map(_visible, orjson.dumps(arguments).decode()))
    if len(text) <= ARGUMENT_LIMIT:
        return text
    return f"{text[:ARGUMENT_LIMIT]}… ({len(text)} characters; see GET /approvals)"


def _visible(letter: str) -> str:
    """Letters that nobody sees, or that turn the text around, are written as their number: what
    is approved is what is read."""
    hidden = unicodedata.category(letter) in HIDDEN
    return f"\\u{{{ord(letter):x}}}" if hidden else letter


def _usage(response: ChatResponse) -> dict[str, int]:
    used = response.usage
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
    }
