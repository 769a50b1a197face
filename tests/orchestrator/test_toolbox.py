"""Tool servers that die, hang, lie or send what cannot be kept; and models that call wrongly."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from mcp.server import MCPServer

from contracts.errors import ToolError
from orchestrator.agent import toolservers
from orchestrator.agent.tool_transport import Remote
from orchestrator.agent.toolbox import Toolbox
from tests.support.hands import Hands, hands
from tests.support.probe_tools import Probe
from tests.support.raw_tools import READ, declared, raw_server
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripted_reply import script

COUNT = {
    "type": "object",
    "properties": {"rows": {"type": "array", "items": {"type": "integer"}}},
    "required": ["rows"],
}


class Watched(Toolbox):
    """A toolbox that says when a server has listed its tools."""

    def _collect(self) -> None:
        super()._collect()
        self.listed.set()

    listed: asyncio.Event


def watched(servers: dict[str, Any], timeout_s: float = 10) -> Watched:
    box = Watched(servers, timeout_s)
    box.listed = asyncio.Event()
    return box


@asynccontextmanager
async def served(server: MCPServer, port: int = 0) -> AsyncIterator[Remote]:
    """The server over HTTP."""
    app = server.streamable_http_app(stateless_http=True)
    config = uvicorn.Config(app, port=port, log_config=None, timeout_graceful_shutdown=1)
    running = uvicorn.Server(config)
    listener = config.bind_socket()
    task = asyncio.create_task(running.serve(sockets=[listener]))
    try:
        yield Remote(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp")
    finally:
        running.should_exit = True
        await task
        listener.close()


def port_of(remote: Remote) -> int:
    return int(remote.url.split(":")[2].split("/")[0])


async def failure(box: Toolbox, name: str) -> ToolError:
    with pytest.raises(ToolError) as error:
        await box.call(name, {})
    return error.value


async def test_a_server_that_is_dead_or_hangs_leaves_the_others_in_use(
    probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolservers, "CONNECT_S", 0.3)
    callers = []

    async def keep(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        callers.append(writer)

    silent = await asyncio.start_server(keep, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    urls = {"dead": "http://127.0.0.1:9/mcp", "silent": f"http://127.0.0.1:{port}/mcp"}
    remotes = {name: Remote(url) for name, url in urls.items()}
    async with Toolbox(remotes | {"probe": probe.server}, 10) as box:
        assert "look" in box.tools
        assert set(box.down) == {"dead", "silent"}
        assert "TaskGroup" not in box.down["dead"]
        assert (await box.call("look", {"text": "x"}))["text"] == "x"
    for writer in callers:
        writer.close()
    silent.close()
    await silent.wait_closed()


def far_server() -> MCPServer:
    """One tool that reads and one that changes something, under names of their own."""
    server, probe = MCPServer("far", log_level="ERROR"), Probe()
    server.tool(name="far_look", annotations=READ)(probe.look)
    server.tool(name="far_change")(probe.change)
    return server


async def test_a_server_that_dies_later_is_told_and_comes_back(
    probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolservers, "RETRY_FIRST_S", 0.01)
    monkeypatch.setattr(toolservers, "RETRY_MAX_S", 0.05)
    async with served(far_server()) as url:
        box = watched({"far": url, "probe": probe.server})
        await box.__aenter__()
        assert (await box.call("far_look", {"text": "x"}))["text"] == "x"
    # What cannot be connected has not arrived: a change, too, is known not to have been made.
    assert (await failure(box, "far_change")).code == "tool_unavailable"
    error = await failure(box, "far_look")
    assert error.code == "tool_unavailable"
    assert "its server far does not answer" in error.message
    assert (await box.call("look", {"text": "x"}))["text"] == "x"
    assert "far" in box.down
    box.listed.clear()
    async with served(far_server(), port_of(url)):
        await asyncio.wait_for(box.listed.wait(), 10)
        assert (await box.call("far_look", {"text": "y"}))["text"] == "y"
        assert box.down == {}
        await box.__aexit__(None, None, None)


@pytest.mark.parametrize("over_http", [False, True], ids=["in memory", "over HTTP"])
async def test_a_tool_that_takes_too_long_is_cancelled(probe: Probe, over_http: bool) -> None:
    async with served(probe.server) as url:
        source = url if over_http else probe.server
        async with Toolbox({"probe": source}, 0.2) as box:
            error = await failure(box, "hang")
            assert (error.code, "0.2 s" in error.message) == ("tool_timeout", True)
            await asyncio.wait_for(probe.cancelled.wait(), 5)
            assert (await box.call("look", {"text": "x"}))["text"] == "x"


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ({"rows": [1, "two"]}, "rows.1: 'two' is not of type 'integer'"),
        ({}, "'rows' is a required property"),
        ("only text", "structured content"),
        ({"rows": [10**30]}, "rows.0 is an integer of more than 64 bits"),
        ({"rows": [], "x": json.loads("[" * 90 + "]" * 90)}, "nests deeper than 64"),
    ],
)
async def test_a_tool_that_breaks_its_output_schema_is_an_error_that_names_the_field(
    answer: Any, named: str
) -> None:
    liar = raw_server("liar", [[declared("lie", COUNT)]], lambda *_: answer)
    async with Toolbox({"liar": liar}, 10) as box:
        error = await failure(box, "lie")
        assert error.code == "bad_result"
        assert named in error.message


async def test_text_that_is_no_unicode_is_mended_in_results_and_errors() -> None:
    def answer(name: str, _: Any) -> Any:
        if name == "fail":
            raise ValueError("broken \udcff name")
        return (
            {"rows": [], "name": "a\udcff", "pair": "\ud83d\ude00"} if name == "say" else "a\ud800"
        )

    tools = [[declared("say", COUNT), declared("text"), declared("fail")]]
    async with Toolbox({"raw": raw_server("raw", tools, answer)}, 10) as box:
        said = await box.call("say", {})
        assert said == {"rows": [], "name": "a\ufffd", "pair": "\U0001f600"}
        assert await box.call("text", {}) == {"text": "a\ufffd"}
        assert "broken \ufffd name" in (await failure(box, "fail")).message


async def test_all_pages_of_a_list_are_read() -> None:
    pages = [[declared("one")], [declared("two"), declared("three")], [declared("four")]]
    server = raw_server("paged", pages, lambda name, _: {"name": name})
    async with Toolbox({"paged": server}, 10) as box:
        assert list(box.tools) == ["one", "two", "three", "four"]
        assert await box.call("four", {}) == {"name": "four"}


async def test_of_two_tools_with_one_name_the_first_counts_and_that_is_said(
    engine: ScriptedEngine, probe: Probe, tmp_path: Path
) -> None:
    taker = raw_server("taker", [[declared("look"), declared("own")]], lambda *_: {"taken": True})
    async with hands(engine.url, tmp_path, probe.server, taker) as variet:
        done = await variet.client.post(
            "/tools/execute", json={"name": "look", "arguments": {"text": "x"}}
        )
        assert done.json()["result"]["text"] == "x"
        assert "own" in [t["function"]["name"] for t in await schemas(variet)]
        health = (await variet.client.get("/health")).json()
        assert health["checks"]["tools"]["status"] == "degraded"
        told = "taker.look is not used: probe has a tool of that name"
        assert told in health["checks"]["tools"]["detail"]


async def schemas(variet: Hands) -> list[dict[str, Any]]:
    return list((await variet.client.get("/tools/schemas")).json())


async def test_a_tool_with_a_wrong_schema_is_not_used_and_the_others_are() -> None:
    tools = [
        declared("wrong", input_schema={"type": "object", "properties": {"a": {"type": 5}}}),
        declared("remote", input_schema={"type": "object", "$ref": "http://127.0.0.1:9/x"}),
        declared("right").model_copy(update={"description": "Says \udcff."}),
        declared("odd \ud800"),
    ]
    async with Toolbox({"raw": raw_server("raw", [tools], lambda *_: {})}, 10) as box:
        assert list(box.tools) == ["right"]
        assert "properties.a.type" in box.refused["raw.wrong"]
        assert "nothing is fetched" in box.refused["raw.remote"]
        assert "is no text" in box.refused["raw.odd \ufffd"]
        assert box.offered(None)[0]["function"]["description"] == "Says \ufffd."


BAD_ARGUMENTS = [
    "[]",
    '"text"',
    "null",
    "5",
    '{"text": NaN}',
    '{"text": "x", "y": 1e999}',
    '{"text": "\\ud800"}',
    '{"\\udfff": "x"}',
    '{"text": "x", "n": ' + "9" * 40 + "}",
    '{"text": "x", "deep": ' + "[" * 300 + "]" * 300 + "}",
    '{"text": ' + "[" * 100_000,
    '{"text": "x"} {"text": "y"}',
    '{"text": "unfinished',
]


async def test_arguments_that_are_no_json_object_are_told_to_the_model(
    variet: Hands, engine: ScriptedEngine, probe: Probe
) -> None:
    for raw in BAD_ARGUMENTS:
        engine.script({"tool_calls": [{"name": "look", "arguments": raw}]}, {"text": "Sorry."})
        answer = await variet.ask("hi")
        assert (raw[:30], answer["status"], answer["answer"]) == (raw[:30], "completed", "Sorry.")
        assert answer["tool_calls"][0]["error"]["code"] == "malformed_arguments"
        events = await variet.follow(answer["run_id"])
        assert events[-1]["type"] == "end"
    assert probe.calls["look"] == 0


async def test_large_and_odd_arguments_reach_the_tool_whole(variet: Hands) -> None:
    for text in ("x" * 100_000, "\u0000\u001b[31m", "\u202e\ufeff\U0001f600", '"}]}\n\ndata: x'):
        body = {"name": "look", "arguments": {"text": text}}
        done = await variet.client.post("/tools/execute", json=body)
        assert done.json()["result"]["text"] == text
        told = await variet.ask(script({"tool_calls": [body]}, {"text": "Seen."}))
        # What is too large for the window is refused in words, never by a defect.
        if len(text) < 1_000:
            assert told["tool_calls"][0]["result"]["text"] == text
        else:
            assert told["error"]["code"] == "context_overflow"


async def test_a_tool_by_hand_refuses_arguments_that_cannot_be_kept(variet: Hands) -> None:
    headers = {"content-type": "application/json"}
    for raw, statuses in [(raw, {400, 422}) for raw in BAD_ARGUMENTS]:
        body = '{"name": "look", "arguments": ' + raw + "}"
        answer = await variet.client.post("/tools/execute", content=body, headers=headers)
        assert (raw[:30], answer.status_code in statuses) == (raw[:30], True)
        assert answer.json()["error"]["message"]
    named = '{"name": "\\ud800", "arguments": {}}'
    answer = await variet.client.post("/tools/execute", content=named, headers=headers)
    assert answer.status_code == 422


async def test_an_edit_of_an_approval_refuses_them_too(variet: Hands, probe: Probe) -> None:
    change = {"tool_calls": [{"name": "change", "arguments": {"text": "a"}}]}
    asked = await variet.ask(script(change, {"text": "Done."}))
    path = f"/approvals/{asked['approvals'][0]['id']}"
    headers = {"content-type": "application/json"}
    body = '{"decision": "edit", "arguments": {"text": "\\ud800"}}'
    refused = await variet.client.post(path, content=body, headers=headers)
    assert refused.status_code == 422
    done = await variet.client.post(path, json={"decision": "approve", "wait": True})
    assert done.json()["status"] == "completed"
    assert probe.calls["change"] == 1
