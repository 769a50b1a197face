"""Callers who leave: before the first token, in the middle, during a tool; over real sockets."""

import asyncio
import json
from typing import Any

import pytest

from tests.support.hands import Hands, read_events
from tests.support.probe_tools import Probe
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripted_reply import script

HANG = {"tool_calls": [{"name": "hang", "arguments": {}}]}
PLACES = ("before the first token", "mid-token", "in a tool")


class Caller:
    """A bare HTTP client that can leave whenever it likes."""

    def __init__(self, variet: Hands) -> None:
        self._host, port = variet.url.removeprefix("http://").split(":")
        self._port = int(port)

    async def post(self, path: str, body: dict[str, Any]) -> None:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        self._writer.write(head.encode() + data)
        await self._writer.drain()

    async def read_until(self, text: bytes) -> None:
        await self._reader.readuntil(text)

    def leave(self) -> None:
        self._writer.close()


def reply(place: str) -> list[dict[str, Any]]:
    if place == "before the first token":
        return [{"text": "Late.", "first_delay_ms": 30_000}]
    if place == "mid-token":
        return [{"tokens": 3_000, "delay_ms": 10}]
    return [HANG, {"text": "After the tool."}]


def short_reply(place: str) -> list[dict[str, Any]]:
    """One that ends by itself soon after the caller has left."""
    if place == "before the first token":
        return [{"text": "Late.", "first_delay_ms": 300}]
    if place == "mid-token":
        return [{"tokens": 40, "delay_ms": 10}]
    return [HANG, {"text": "After the tool."}]


async def reach(
    place: str, stream: bool, caller: Caller, variet: Hands, engine: ScriptedEngine, probe: Probe
) -> None:
    """Wait until the run is where the caller is to leave it."""
    await engine.wait_for(requests=2)  # the first one warmed the engine up
    if place == "in a tool":
        await probe.started.wait()
    elif place == "mid-token" and stream:
        await caller.read_until(b"w1 ")
    elif place == "mid-token":
        await first_token(variet)


async def first_token(variet: Hands) -> None:
    """Follow the run, as someone else than its caller, until it speaks."""
    (run,) = (await variet.client.get("/runs")).json()["items"]
    async with variet.client.stream("GET", f"/runs/{run['id']}/events") as answer:
        async for event in read_events(answer):
            if event["type"] == "token":
                return


async def ended(variet: Hands) -> dict[str, Any]:
    (run,) = (await variet.client.get("/runs")).json()["items"]
    events = await variet.follow(run["id"])
    assert events[-1]["type"] == "end"
    return dict((await variet.client.get(f"/runs/{run['id']}")).json())


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("path", ["/chat", "/v1/chat/completions"])
async def test_a_caller_who_leaves_stops_the_engine_and_the_tool(
    variet: Hands, engine: ScriptedEngine, probe: Probe, path: str, place: str, stream: bool
) -> None:
    message = script(*reply(place))
    body: dict[str, Any] = {"message": message, "on_disconnect": "stop"}
    if path != "/chat":
        body = {"model": "variet", "messages": [{"role": "user", "content": message}]}
    caller = Caller(variet)
    await caller.post(path, body | {"stream": stream})
    await reach(place, stream, caller, variet, engine, probe)
    caller.leave()
    if place == "in a tool":
        await asyncio.wait_for(probe.cancelled.wait(), 5)
    else:
        await asyncio.wait_for(engine.wait_for(disconnects=1), 5)
    run = await ended(variet)
    assert run["status"] == "stopped"
    if place == "mid-token":
        assert run["response"]["answer"].startswith("w0")
    # The thread is free again.
    more = await variet.ask(script({"text": "Next."}), thread_id=run["thread_id"])
    assert more["answer"] == "Next."


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("place", PLACES)
async def test_without_stop_the_run_goes_on_and_can_be_read(
    variet: Hands, engine: ScriptedEngine, probe: Probe, place: str, stream: bool
) -> None:
    caller = Caller(variet)
    await caller.post("/chat", {"message": script(*short_reply(place)), "stream": stream})
    await reach(place, stream, caller, variet, engine, probe)
    caller.leave()
    probe.release.set()
    run = await ended(variet)
    assert run["status"] == "completed"
    expected = {"before the first token": "Late.", "in a tool": "After the tool."}
    assert run["response"]["answer"].startswith(expected.get(place, "w0 w1"))
    assert engine.disconnects == 0


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("place", PLACES[:2])
async def test_a_caller_of_a_tier_who_leaves_stops_the_engine(
    variet: Hands, engine: ScriptedEngine, probe: Probe, place: str, stream: bool
) -> None:
    engine.script(*reply(place))
    hello = [{"role": "user", "content": "hi"}]
    caller = Caller(variet)
    await caller.post(
        "/v1/chat/completions", {"model": "fast", "messages": hello, "stream": stream}
    )
    # A whole answer of an engine comes at its end: there is no middle to wait for.
    await reach(place if stream else PLACES[0], stream, caller, variet, engine, probe)
    caller.leave()
    await asyncio.wait_for(engine.wait_for(disconnects=1), 5)


async def test_one_follower_who_leaves_does_not_stop_a_run(
    variet: Hands, engine: ScriptedEngine
) -> None:
    asking = asyncio.create_task(variet.ask(script({"tokens": 40, "delay_ms": 10})))
    await engine.wait_for(requests=2)
    (run,) = (await variet.client.get("/runs")).json()["items"]
    async with variet.client.stream("GET", f"/runs/{run['id']}/events") as follower:
        await anext(follower.aiter_bytes())
    assert (await asking)["status"] == "completed"
