"""The reduced client sends and receives what the openai client's own method would."""

from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from orchestrator.agent.completions import Completions
from tests.support.scripted_engine import ScriptedEngine

TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks.",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    },
}
THREAD: list[BaseMessage] = [
    HumanMessage("Look."),
    AIMessage("", tool_calls=[{"name": "look", "args": {"at": "ü"}, "id": "c1"}]),
    ToolMessage("seen", tool_call_id="c1"),
]
REPLIES: list[dict[str, Any]] = [
    {"text": "It is fine."},
    {"text": "Two: ", "tool_calls": [{"name": "look", "arguments": {"at": "a"}}] * 2},
    {"text": "", "finish_reason": "length"},
]
FORM = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}


@pytest.mark.parametrize("reply", REPLIES)
async def test_both_clients_say_and_understand_the_same(reply: dict[str, Any]) -> None:
    async with (
        ScriptedEngine() as engine,
        openai.AsyncOpenAI(base_url=engine.url, api_key="k", max_retries=0) as client,
    ):
        reduced = Completions(client)
        answers = []
        for part in (client.chat.completions, reduced):
            engine.script(reply)
            chat = ChatOpenAI(
                model="scripted",
                base_url=engine.url,
                api_key=SecretStr("k"),
                client=reduced,
                async_client=part,
                stream_usage=True,
                temperature=0,
            )
            stream = chat.astream(
                THREAD, tools=[TOOL], tool_choice="auto", extra_body={"response_format": FORM}
            )
            answers.append([_content(chunk) async for chunk in stream])
        theirs, ours = (call.body for call in engine.calls)
    assert ours == theirs
    assert answers[1] == answers[0]


def _content(chunk: BaseMessage) -> dict[str, Any]:
    """Without the ids, which are made anew for each answer."""
    content = chunk.model_dump(exclude={"id"})
    for call in content["tool_calls"] + content["tool_call_chunks"]:
        call.pop("id", None)
    return content
