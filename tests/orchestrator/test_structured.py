"""Structured answers: enforced by the engine, validated here, repaired once, else failed."""

import asyncio
import json
from typing import Any

import pytest

from tests.support.hands import Hands
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripted_reply import script

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "summary": {"type": "string"},
        "rows": {"type": "array", "items": {"$ref": "#/$defs/row"}},
    },
    "required": ["summary", "rows"],
    "additionalProperties": False,
    "$defs": {"row": {"type": "object", "properties": {"n": {"type": "integer"}}}},
}
GOOD = {"summary": "fine", "rows": [{"n": 1}]}
WRONG = {"summary": "fine", "rows": [{"n": "one"}]}
LOOK = {"tool_calls": [{"name": "look", "arguments": {"text": "x"}}]}


async def ask(variet: Hands, *replies: dict[str, Any], schema: Any = None) -> dict[str, Any]:
    return await variet.ask(script(*replies), response_schema=schema or SCHEMA)


async def test_the_engine_is_told_the_schema_and_the_answer_is_checked(
    variet: Hands, engine: ScriptedEngine
) -> None:
    answer = await ask(variet, LOOK, {"text": "One row."}, {"json": GOOD})
    assert answer["structured"] == GOOD
    assert answer["answer"] == "One row."
    tool_turn, prose, structured = (call.body for call in list(engine.calls)[-3:])
    assert "response_format" not in tool_turn
    assert "response_format" not in prose
    form = structured["response_format"]
    assert (form["type"], form["json_schema"]["strict"]) == ("json_schema", True)
    assert form["json_schema"]["schema"] == SCHEMA
    # The tools stay in the prompt, so that the engine's cache fits; none may be called.
    assert structured["tools"] == prose["tools"]
    assert (structured["tool_choice"], prose["tool_choice"]) == ("none", "auto")
    assert structured["messages"][: len(prose["messages"])] == prose["messages"]
    last = structured["messages"][-1]["content"]
    assert last == "Give this answer as JSON: {summary: string, rows: [{n: integer}]}"
    assert "structure" in [s["name"] for s in (await run_of(variet, answer))["stages"]]


async def run_of(variet: Hands, answer: dict[str, Any]) -> dict[str, Any]:
    return dict((await variet.client.get(f"/runs/{answer['run_id']}")).json())


@pytest.mark.parametrize(
    ("first", "told"),
    [
        ({"json": WRONG}, "rows.0.n: 'one' is not of type 'integer'"),
        ({"text": "Sure! Here it is."}, "it is not JSON"),
        ({"text": '{"summary": NaN, "rows": []}'}, "it is not JSON"),
        ({"text": '{"summary": "cu', "finish_reason": "length"}, "cut at the token limit"),
    ],
)
async def test_a_wrong_one_is_repaired_once(
    variet: Hands, engine: ScriptedEngine, first: dict[str, Any], told: str
) -> None:
    answer = await ask(variet, {"text": "Prose."}, first, {"json": GOOD})
    assert (answer["status"], answer["structured"]) == ("completed", GOOD)
    assert told in engine.calls[-1].body["messages"][-1]["content"]
    # What was wrong is no part of the thread.
    thread = (await variet.client.get(f"/threads/{answer['thread_id']}")).json()
    assert [m["role"] for m in thread["messages"]] == ["user", "assistant"]


async def test_one_that_is_wrong_twice_fails_the_run_with_the_reason(
    variet: Hands, engine: ScriptedEngine
) -> None:
    answer = await ask(variet, {"text": "Prose."}, {"json": WRONG}, {"json": WRONG}, {"json": GOOD})
    assert (answer["status"], answer["structured"]) == ("failed", None)
    assert answer["error"]["code"] == "bad_structure"
    assert "rows.0.n" in answer["error"]["message"]
    assert answer["error"]["remedy"]
    assert len(engine.calls) == 1 + 3  # warm-up, prose, two attempts


async def test_an_answer_that_is_cut_twice_says_so(variet: Hands) -> None:
    cut = {"text": '{"summary": "cu', "finish_reason": "length"}
    answer = await ask(variet, {"text": "Prose."}, cut, cut)
    assert answer["status"] == "failed"
    assert "token limit" in answer["error"]["message"]


async def test_no_structured_call_is_made_for_a_run_that_failed_before(
    variet: Hands, engine: ScriptedEngine
) -> None:
    answer = await ask(variet, {"status": 500, "error": "boom"})
    assert (answer["status"], answer["structured"]) == ("failed", None)
    assert len(engine.calls) == 2


async def test_falsy_values_are_answers_too(variet: Hands) -> None:
    values: list[Any] = [0, False, [], {}, ""]
    for value in values:
        answer = await ask(variet, {"text": "Prose."}, {"json": value}, schema={"description": "x"})
        assert (answer["status"], answer["structured"]) == ("completed", value)


async def test_a_schema_that_refers_to_itself_is_used(variet: Hands) -> None:
    node = {"type": "object", "properties": {"of": {"type": "array", "items": {"$ref": "#"}}}}
    tree = {"of": [{"of": []}, {"of": [{"of": []}]}]}
    answer = await ask(variet, {"text": "Prose."}, {"json": tree}, schema=node)
    assert (answer["status"], answer["structured"]) == ("completed", tree)
    endless = await ask(variet, {"text": "Prose."}, {"json": 1}, {"json": 1}, schema={"$ref": "#"})
    assert "without end" in endless["error"]["message"]


NO_SCHEMAS: list[tuple[dict[str, Any], str]] = [
    ({"type": "objekt"}, "type"),
    ({"properties": {"a": {"type": 5}}}, "properties.a.type"),
    ({"properties": {"a": {"pattern": "("}}}, "properties.a.pattern"),
    ({"properties": {"a": {"$ref": "#/$defs/none"}}}, "properties.a.$ref"),
    ({"items": {"$ref": "other.json"}}, "items.$ref"),
    ({"items": {"$ref": "file:///etc/passwd"}}, "items.$ref"),
    ({"const": {"a": float("inf")}}, "const.a"),
    ({"const": "\ud800"}, "const"),
]


async def test_a_schema_that_is_none_is_refused_with_its_path(
    variet: Hands, engine: ScriptedEngine
) -> None:
    headers = {"content-type": "application/json"}
    for schema, path in NO_SCHEMAS:
        body = json.dumps({"message": "hi", "response_schema": schema})
        answer = await variet.client.post("/chat", content=body, headers=headers)
        assert answer.status_code == 422
        assert path in answer.json()["error"]["message"]
    assert len(engine.calls) == 1
    assert (await variet.client.get("/threads")).json()["items"] == []


async def test_a_reference_to_somewhere_else_is_never_fetched(variet: Hands) -> None:
    fetched = asyncio.Event()

    async def seen(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fetched.set()
        writer.close()

    server = await asyncio.start_server(seen, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        remote = f"http://127.0.0.1:{port}/schema.json"
        for schema in ({"$ref": remote}, {"$schema": remote}, {"$id": remote, "$ref": "other"}):
            answer = await variet.client.post(
                "/chat", json={"message": script({"text": "x"}), "response_schema": schema}
            )
            if "$ref" in schema:
                assert answer.status_code == 422
                assert answer.json()["error"]["code"] == "bad_schema"
    assert not fetched.is_set()
