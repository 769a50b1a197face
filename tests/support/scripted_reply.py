"""What a scripted engine answers, and how it looks on the OpenAI wire."""

import json
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from contracts.base import Message

DIRECTIVE = "script:"

Fault = Literal[
    "hang",  # nothing more comes, the connection stays open
    "reset",  # the socket is reset
    "close",  # the connection closes inside the body
    "eof",  # the body ends properly, but without a finish reason and [DONE]
]


class ScriptedCall(Message):
    """A tool call. `arguments` as a string is sent as it is, well-formed or not."""

    name: str
    arguments: dict[str, Any] | str = {}
    id: str | None = None


class Reply(Message):
    """One answer. Exactly what is said here happens; delays are exact and zero by default."""

    text: str | None = Field(None, description="answer; sent word by word")
    tokens: int = Field(0, ge=0, description="without text: an answer of this many words")
    json_value: Any = Field(None, alias="json", description="answer this JSON")
    reasoning: str = Field("", description="sent before the answer as reasoning_content")
    tool_calls: list[ScriptedCall] = []
    first_delay_ms: float = Field(0, ge=0, description="silence before the first token")
    delay_ms: float = Field(0, ge=0, description="time from one token to the next")
    waits: list[Any] = Field([], description="comments sent first, where progress is asked for")
    wait_ms: float = Field(0, ge=0, description="time after each of them")
    error_event: dict[str, Any] | None = Field(
        None, description="error of an error event, or of an error answer"
    )
    fault: Fault | None = None
    fault_after: int = Field(0, ge=0, description="tokens before the fault; 0: before any")
    status: int = Field(200, description="other than 200: an error answer with this status")
    error: str = Field("", description="error message of that answer")
    finish_reason: str | None = None
    cached_tokens: int = Field(0, ge=0)

    def pieces(self) -> list[str]:
        """The answer's tokens, whose concatenation is the answer."""
        if self.json_value is not None:
            return _words(json.dumps(self.json_value, ensure_ascii=False))
        if self.text is not None:
            return _words(self.text)
        return [f"w{n} " for n in range(self.tokens)]

    def finish(self) -> str:
        return self.finish_reason or ("tool_calls" if self.tool_calls else "stop")


def script(*replies: Reply | dict[str, Any]) -> str:
    """A user message that makes the engine give these replies, one per call of the engine."""
    made = [reply if isinstance(reply, Reply) else Reply(**reply) for reply in replies]
    return DIRECTIVE + json.dumps(
        [r.model_dump(mode="json", by_alias=True, exclude_defaults=True) for r in made]
    )


def scripted_reply(body: dict[str, Any], fallback: Reply) -> Reply:
    """The reply that the thread itself asks for: the newest user message that starts with
    `script:` holds a list; the assistant messages after it say how far the list is used up.
    Without one, or past its end: `fallback`, or a minimal instance of a requested schema."""
    messages = body["messages"]
    for index in range(len(messages) - 1, -1, -1):
        text = _text(messages[index])
        if messages[index]["role"] != "user" or not text.startswith(DIRECTIVE):
            continue
        replies = json.loads(text.removeprefix(DIRECTIVE))
        used = sum(message["role"] == "assistant" for message in messages[index:])
        if used < len(replies):
            return Reply.model_validate(replies[used])
        break
    schema = requested_schema(body)
    return fallback if schema is None else Reply(json=minimal_instance(schema, schema))


def requested_schema(body: dict[str, Any]) -> dict[str, Any] | None:
    wanted = body.get("response_format") or {}
    if wanted.get("type") != "json_schema":
        return None
    schema: dict[str, Any] = wanted["json_schema"]["schema"]
    return schema


def minimal_instance(schema: dict[str, Any], root: dict[str, Any]) -> Any:
    """The smallest value that satisfies the common part of JSON Schema."""
    if ref := schema.get("$ref"):
        return minimal_instance(root["$defs"][ref.rsplit("/", 1)[1]], root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return minimal_instance(options[-1], root)
    kind = schema.get("type", "null")
    if kind == "object":
        known = schema.get("properties", {})
        return {key: minimal_instance(known[key], root) for key in schema.get("required", known)}
    if kind == "array":
        return [minimal_instance(schema["items"], root) for _ in range(schema.get("minItems", 0))]
    if kind in ("integer", "number"):
        return schema.get("minimum", 0)
    return {"string": "x" * schema.get("minLength", 0), "boolean": False}.get(kind)


def prompt_tokens(body: dict[str, Any]) -> int:
    """Words of the request: a count that grows with the prompt and costs nothing to take."""
    return sum(len(_text(message).split()) for message in body["messages"]) or 1


def usage(body: dict[str, Any], reply: Reply, sent: int) -> dict[str, Any]:
    before = prompt_tokens(body)
    return {
        "prompt_tokens": before,
        "completion_tokens": sent,
        "total_tokens": before + sent,
        "prompt_tokens_details": {"cached_tokens": reply.cached_tokens},
    }


def deltas(reply: Reply) -> Iterator[dict[str, Any]]:
    """The deltas of a streamed answer, one per token."""
    for piece in _words(reply.reasoning):
        yield {"reasoning_content": piece}
    for piece in reply.pieces():
        yield {"content": piece}
    for index, call in enumerate(reply.tool_calls):
        head = {"index": index, "id": call_id(call, index), "type": "function"}
        yield {"tool_calls": [{**head, "function": {"name": call.name, "arguments": ""}}]}
        for piece in _halves(arguments_text(call)):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def whole_message(reply: Reply) -> dict[str, Any]:
    """The message of an answer that is not streamed."""
    message: dict[str, Any] = {"role": "assistant", "content": "".join(reply.pieces()) or None}
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    if reply.tool_calls:
        message["tool_calls"] = [
            {
                "id": call_id(call, index),
                "type": "function",
                "function": {"name": call.name, "arguments": arguments_text(call)},
            }
            for index, call in enumerate(reply.tool_calls)
        ]
    elif message["content"] is None:
        message["content"] = ""
    return message


def arguments_text(call: ScriptedCall) -> str:
    return call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments)


def call_id(call: ScriptedCall, index: int) -> str:
    """Unique per process: a thread with several rounds must not see an id twice."""
    return call.id or f"call_{next(_CALL_NUMBERS)}_{index}"


def _numbers() -> Iterator[int]:
    number = 0
    while True:
        number += 1
        yield number


_CALL_NUMBERS = _numbers()


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def _words(text: str) -> list[str]:
    """Split before each space, so that the parts join to the text again."""
    words = text.split(" ")
    return [word if n == 0 else " " + word for n, word in enumerate(words)] if text else []


def _halves(text: str) -> list[str]:
    middle = len(text) // 2
    return [part for part in (text[:middle], text[middle:]) if part]
