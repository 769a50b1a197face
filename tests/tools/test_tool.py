from typing import Annotated, Any

from mcp import Client
from mcp.server import MCPServer
from pydantic import BaseModel, Field

from contracts.errors import Conflict
from tests.support.tool_errors import error_of
from tools.tool import plain_schema, tool


class Answer(BaseModel):
    count: int


def shout(count: Annotated[int, Field(ge=1, description="how often")], word: str = "") -> Answer:
    if word == "taken":
        raise Conflict("taken", "The word 'taken' is taken.", "Choose another.")
    if word == "broken":
        return {"count": "many"}  # type: ignore[return-value]
    if word == "crash":
        raise RuntimeError("an inner secret")
    return Answer(count=count)


async def call(**arguments: Any) -> Any:
    async with Client(MCPServer("test", tools=[tool(shout, "Shout.")])) as client:
        return await client.call_tool("shout", arguments)


async def test_a_result_is_structured() -> None:
    assert (await call(count=2)).structured_content == {"count": 2}


async def test_a_known_error_reaches_the_model_as_it_is() -> None:
    assert error_of(await call(count=1, word="taken")) == {
        "code": "taken",
        "message": "The word 'taken' is taken.",
        "remedy": "Choose another.",
    }


async def test_wrong_arguments_are_named_with_what_they_held() -> None:
    error = error_of(await call(count=0, volume="loud"))
    assert error["code"] == "bad_arguments"
    assert "count: Input should be greater than or equal to 1 (got 0)" in error["message"]
    assert "volume: Extra inputs are not permitted (got 'loud')" in error["message"]


async def test_a_result_that_breaks_its_own_schema_names_the_field() -> None:
    error = error_of(await call(count=1, word="broken"))
    assert error["code"] == "bad_tool_result"
    assert "count: Input should be a valid integer" in error["message"]


async def test_an_unexpected_exception_stays_inside() -> None:
    result = await call(count=1, word="crash")
    assert result.is_error
    assert "secret" not in result.content[0].text


async def test_a_long_argument_is_cut_in_the_message() -> None:
    assert len(error_of(await call(count="x" * 10_000))["message"]) < 300


def test_a_schema_loses_its_titles_but_no_property_of_that_name() -> None:
    schema = {
        "title": "Args",
        "properties": {"title": {"title": "Title", "type": "string", "default": None}},
        "anyOf": [{"title": "A", "type": "null"}],
    }
    assert plain_schema(schema) == {
        "properties": {"title": {"type": "string"}},
        "anyOf": [{"type": "null"}],
    }
