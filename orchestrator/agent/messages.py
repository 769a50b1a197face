"""Messages between their stored form (OpenAI's JSON) and the form that LangChain's model takes.

A tool call whose arguments are not JSON keeps its raw text in store. To an engine it is shown
with empty arguments, since chat templates refuse anything else, and `malformed` carries the text.
"""

import json
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolCall, ToolMessage

from orchestrator.agent.values import flaw

MALFORMED = "malformed"


def load(body: dict[str, Any]) -> AnyMessage:
    content = body.get("content") or ""
    match body["role"]:
        case "user":
            return HumanMessage(content)
        case "tool":
            return ToolMessage(content, tool_call_id=body["tool_call_id"])
        case _:
            return _assistant(content, body.get("tool_calls") or [])


def _assistant(content: str, stored: list[dict[str, Any]]) -> AIMessage:
    calls, malformed = [], {}
    for call in stored:
        raw = call["function"]["arguments"]
        arguments = parse_arguments(raw)
        if arguments is None:
            malformed[call["id"]] = raw
        calls.append({"name": call["function"]["name"], "args": arguments or {}, "id": call["id"]})
    extra = {MALFORMED: malformed} if malformed else {}
    return AIMessage(content, tool_calls=calls, additional_kwargs=extra)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str, calls: list[tuple[str, str, str]] | None = None) -> dict[str, Any]:
    """`calls` are (id, name, arguments as the model wrote them)."""
    body: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        body["tool_calls"] = [
            {"id": i, "type": "function", "function": {"name": name, "arguments": raw}}
            for i, name, raw in calls
        ]
    return body


def tool(call_id: str, content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def parse_arguments(raw: str) -> dict[str, Any] | None:
    """The arguments as an object, or None if the text is not one JSON object that can be kept."""
    try:
        value = json.loads(raw or "{}", parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and flaw(value) is None else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def answers(message: AnyMessage) -> bool:
    """Whether a message is an answer: an assistant's, without tool calls."""
    return isinstance(message, AIMessage) and not message.tool_calls


def unanswered(messages: list[AnyMessage]) -> list[ToolCall]:
    """Tool calls of the last assistant message that no tool message answers."""
    answered: set[str | None] = set()
    for message in reversed(messages):
        if isinstance(message, ToolMessage):
            answered.add(message.tool_call_id)
        elif isinstance(message, AIMessage):
            return [call for call in message.tool_calls if call["id"] not in answered]
        else:
            return []
    return []
