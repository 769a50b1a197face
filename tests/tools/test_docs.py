import json
from typing import Any

import pytest
from mcp import Client

from contracts.errors import Unavailable
from contracts.tools import DocChunk, DocMatches
from tools.docs import server

FOUND = DocMatches(
    results=[DocChunk(n=1, source="guide.md", start_line=3, end_line=5, score=0.9, text="210 kPa.")]
)


async def search(query: str, limit: int) -> DocMatches:
    if query == "down":
        raise Unavailable("index_unavailable", "The index is down.", "Wait.")
    assert limit == 5
    return FOUND


async def call(arguments: dict[str, Any]) -> Any:
    async with Client(server(search)) as client:
        return await client.call_tool("search_docs", arguments)


async def test_the_tool_is_described_as_a_reading_one() -> None:
    async with Client(server(search)) as client:
        [tool] = (await client.list_tools()).tools
    assert (tool.name, tool.description) == ("search_docs", "Search the indexed documents.")
    assert tool.annotations
    assert tool.annotations.read_only_hint
    assert tool.input_schema["required"] == ["query"]
    assert tool.output_schema


async def test_it_answers_with_numbered_passages() -> None:
    result = await call({"query": "boost limit"})
    assert DocMatches.model_validate(result.structured_content) == FOUND


@pytest.mark.parametrize("arguments", [{}, {"query": ""}, {"query": "x", "limit": 0}, {"q": "x"}])
async def test_wrong_arguments_are_explained(arguments: dict[str, Any]) -> None:
    result = await call(arguments)
    assert result.is_error
    assert json.loads(result.content[0].text)["error"]["code"] == "bad_arguments"


async def test_an_index_that_is_down_is_told_to_the_model() -> None:
    result = await call({"query": "down"})
    assert json.loads(result.content[0].text)["error"]["code"] == "index_unavailable"
