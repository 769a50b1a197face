import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripted_reply import script

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}, "s": {"type": "string"}},
    "required": ["n", "s"],
}


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    async with ScriptedEngine() as engine:
        yield engine


@pytest.fixture
async def client(engine: ScriptedEngine) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=engine.url, api_key="none", max_retries=0) as client:
        yield client


async def ask(client: openai.AsyncOpenAI, text: str, **more: Any) -> Any:
    messages: list[Any] = [{"role": "user", "content": text}]
    return await client.chat.completions.create(model="m", messages=messages, **more)


async def test_an_answer_of_n_tokens_is_streamed_token_by_token_with_usage(
    client: openai.AsyncOpenAI,
) -> None:
    stream = await ask(
        client,
        script({"tokens": 5}),
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    pieces = [
        c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content
    ]
    assert pieces == ["w0 ", "w1 ", "w2 ", "w3 ", "w4 "]
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == 5


async def test_a_script_in_the_thread_goes_on_from_call_to_call(client: openai.AsyncOpenAI) -> None:
    call = {"name": "get_map", "arguments": {"key": "boost_target"}}
    messages: list[Any] = [
        {
            "role": "user",
            "content": script({"tool_calls": [call]}, {"text": "It is fine."}, {"json": {"n": 1}}),
        }
    ]
    first = await client.chat.completions.create(model="m", messages=messages)
    assert first.choices[0].finish_reason == "tool_calls"
    made = first.choices[0].message.tool_calls
    assert made is not None
    assert made[0].type == "function"
    assert json.loads(made[0].function.arguments) == call["arguments"]
    messages.append(first.choices[0].message.model_dump(exclude_none=True))
    messages.append({"role": "tool", "tool_call_id": made[0].id, "content": "{}"})
    second = await client.chat.completions.create(model="m", messages=messages)
    assert second.choices[0].message.content == "It is fine."
    messages.append({"role": "assistant", "content": "It is fine."})
    messages.append({"role": "user", "content": "Give this answer as JSON"})
    third = await client.chat.completions.create(model="m", messages=messages)
    assert json.loads(third.choices[0].message.content or "") == {"n": 1}


async def test_queued_replies_come_first(
    engine: ScriptedEngine, client: openai.AsyncOpenAI
) -> None:
    engine.script({"text": "queued"})
    assert (await ask(client, "hello")).choices[0].message.content == "queued"
    assert (await ask(client, "hello")).choices[0].message.content == "This is a scripted answer."


async def test_a_schema_without_a_script_gets_a_minimal_instance(
    client: openai.AsyncOpenAI,
) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "r", "schema": SCHEMA}}
    answer = await ask(client, "hello", response_format=wanted)
    assert json.loads(answer.choices[0].message.content) == {"n": 0, "s": ""}


async def test_malformed_arguments_are_sent_as_they_are(client: openai.AsyncOpenAI) -> None:
    call = {"name": "get_map", "arguments": '{"key": '}
    stream = await ask(client, script({"tool_calls": [call]}), stream=True)
    parts = [c.choices[0].delta.tool_calls async for c in stream if c.choices[0].delta.tool_calls]
    assert "".join(p[0].function.arguments for p in parts) == '{"key": '


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ],
)
async def test_error_answers_carry_their_status(
    client: openai.AsyncOpenAI, status: int, error: type[openai.APIStatusError]
) -> None:
    with pytest.raises(error, match="too much"):
        await ask(client, script({"status": status, "error": "too much"}))


async def test_a_wrong_script_is_said_and_does_not_hang(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="txt"):
        await ask(client, 'script:[{"txt": "typing error"}]')


async def test_a_clean_end_without_done_has_no_finish_reason(client: openai.AsyncOpenAI) -> None:
    stream = await ask(client, script({"tokens": 9, "fault": "eof", "fault_after": 3}), stream=True)
    chunks = [chunk async for chunk in stream]
    assert len([c for c in chunks if c.choices[0].delta.content]) == 3
    assert all(c.choices[0].finish_reason is None for c in chunks)


@pytest.mark.parametrize("fault", ["reset", "close"])
async def test_a_break_mid_stream_is_an_error_of_the_connection(
    client: openai.AsyncOpenAI, fault: str
) -> None:
    stream = await ask(client, script({"tokens": 9, "fault": fault, "fault_after": 3}), stream=True)
    with pytest.raises((openai.APIConnectionError, httpx.HTTPError)):
        async for _ in stream:
            pass


async def test_a_client_that_leaves_a_hanging_answer_is_logged(
    engine: ScriptedEngine, client: openai.AsyncOpenAI
) -> None:
    stream = await ask(
        client, script({"tokens": 9, "fault": "hang", "fault_after": 2}), stream=True
    )
    async for chunk in stream:
        if chunk.choices[0].delta.content == "w1 ":
            break
    await stream.close()
    await asyncio.wait_for(engine.wait_for(disconnects=1), 5)
    assert engine.calls[0].disconnected
    assert engine.calls[0].tokens_sent == 2


async def test_delays_are_exact_in_the_sum(client: openai.AsyncOpenAI) -> None:
    started = time.perf_counter()
    stream = await ask(client, script({"tokens": 21, "delay_ms": 5}), stream=True)
    assert len([chunk async for chunk in stream]) == 23
    assert 0.1 <= time.perf_counter() - started < 0.5


async def test_the_log_route_waits_for_what_is_asked(engine: ScriptedEngine) -> None:
    root = engine.url.removesuffix("/v1")
    body = {"messages": [{"role": "user", "content": "hi"}]}
    async with httpx.AsyncClient(base_url=root) as client:
        await client.post("/script", json={"replies": [{"text": "queued"}]})
        waiting = asyncio.create_task(client.get("/log?requests=1"))
        await client.post("/v1/chat/completions", json=body)
        log = (await waiting).json()
        assert log["received"] == 1
        assert log["calls"][0]["body"] == body
        await client.delete("/log")
        assert (await client.get("/log")).json()["calls"] == []
        wrong = await client.post("/script", json={"replies": [{"txt": "typing error"}]})
        assert wrong.status_code == 400


async def test_a_stopped_engine_refuses_and_comes_back_on_the_same_port(
    engine: ScriptedEngine, client: openai.AsyncOpenAI
) -> None:
    await engine.stop()
    with pytest.raises(openai.APIConnectionError):
        await ask(client, "hello")
    await engine.start()
    assert (await ask(client, "hello")).choices[0].message.content


async def test_a_key_is_asked_for_when_one_is_set() -> None:
    async with (
        ScriptedEngine(key="right") as engine,
        openai.AsyncOpenAI(base_url=engine.url, api_key="wrong", max_retries=0) as client,
    ):
        with pytest.raises(openai.AuthenticationError):
            await ask(client, "hello")
