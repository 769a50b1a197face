"""The OpenAI surface, as the official client sees it."""

import base64
import json
from array import array
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.services.gateway.front.byte_engine import ByteEngine, Got, Pipe
from tests.support.empty_index import EmptyIndex
from tests.support.hands import Hands, hands
from tests.support.probe_tools import Probe
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripted_reply import script

LOOK = {"tool_calls": [{"name": "look", "arguments": {"text": "boost"}}]}
CHANGE = {"tool_calls": [{"name": "change", "arguments": {"text": "a"}}]}
SCHEMA = {
    "type": "object",
    "properties": {"summary": {"type": "string"}},
    "required": ["summary"],
    "additionalProperties": False,
}
FORM: Any = {"type": "json_schema", "json_schema": {"name": "report", "schema": SCHEMA}}


@pytest.fixture
async def client(variet: Hands) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{variet.url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def say(client: AsyncOpenAI, *contents: str, **more: Any) -> Any:
    """Ask with user and assistant messages in turn, the last one being the user's."""
    count = len(contents)
    messages: Any = [
        {"role": "user" if (count - n) % 2 else "assistant", "content": content}
        for n, content in enumerate(contents)
    ]
    return await client.chat.completions.create(model="variet", messages=messages, **more)


def text_of(completion: Any) -> str:
    return str(completion.choices[0].message.content)


async def test_the_agent_answers_the_official_client(client: AsyncOpenAI) -> None:
    done = await say(client, script({"text": "It is fine."}))
    assert text_of(done) == "It is fine."
    assert done.choices[0].finish_reason == "stop"
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens > 0
    assert done.model == "scripted"


async def test_a_tool_call_is_visible_as_a_note(client: AsyncOpenAI) -> None:
    done = await say(client, script(LOOK, {"text": "Looked."}))
    assert text_of(done) == '> look {"text":"boost"}\n\nLooked.'
    assert done.choices[0].message.tool_calls is None


async def test_a_stream_has_the_same_text_and_usage_when_it_is_asked_for(
    client: AsyncOpenAI,
) -> None:
    stream = await say(
        client,
        script(LOOK, {"text": "one two three"}),
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    pieces = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(pieces) == '> look {"text":"boost"}\n\none two three'
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert len({c.id for c in chunks}) == 1
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0
    plain = await say(client, script({"text": "one"}), stream=True)
    assert all(c.usage is None for c in [chunk async for chunk in plain])


async def test_a_structured_answer_is_pure_json(client: AsyncOpenAI) -> None:
    replies = (LOOK, {"text": "Prose."}, {"json": {"summary": "fine"}})
    done = await say(client, script(*replies), response_format=FORM)
    assert json.loads(text_of(done)) == {"summary": "fine"}
    stream = await say(client, script(*replies), response_format=FORM, stream=True)
    pieces = [c.choices[0].delta.content or "" async for c in stream]
    assert json.loads("".join(pieces)) == {"summary": "fine"}
    free = await say(
        client,
        script({"text": "Prose."}, {"json": {"any": 1}}),
        response_format={"type": "json_object"},
    )
    assert json.loads(text_of(free)) == {"any": 1}


async def test_an_approval_ends_the_turn_and_says_exactly_what_to_send(
    client: AsyncOpenAI, variet: Hands, probe: Probe
) -> None:
    asked = await say(client, "Hi", "Hello", script(CHANGE, {"text": "Changed."}))
    (approval,) = (await variet.client.get("/approvals")).json()["items"]
    told = text_of(asked)
    assert "change" in told
    assert '{"text":"a"}' in told
    assert f"`/approve {approval['id']}`" in told
    assert f"`/reject {approval['id']}`" in told
    assert asked.choices[0].finish_reason == "stop"
    assert probe.calls["change"] == 0
    # As a chat client does: the whole conversation again, with the decision at its end.
    done = await say(client, "Hi", told, f"/approve {approval['id']}")
    assert done.id == asked.id
    assert text_of(done) == '> change {"text":"a"}\n\nChanged.'
    assert probe.calls["change"] == 1
    with pytest.raises(openai.ConflictError) as again:
        await say(client, f"/approve {approval['id']}")
    assert again.value.code == "already_decided"


async def test_an_approval_is_rejected_by_its_line_also_in_a_stream(
    client: AsyncOpenAI, variet: Hands, probe: Probe
) -> None:
    first = await say(client, script(CHANGE, {"text": "As you wish."}), stream=True)
    asked = [chunk async for chunk in first]
    (approval,) = (await variet.client.get("/approvals")).json()["items"]
    second = await say(client, f"/reject {approval['id']}", stream=True)
    chunks = [chunk async for chunk in second]
    assert chunks[0].id == asked[0].id
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "As you wish."
    assert probe.calls["change"] == 0


async def test_only_the_exact_line_decides(
    client: AsyncOpenAI, variet: Hands, probe: Probe
) -> None:
    await say(client, script(CHANGE, {"text": "Changed."}))
    (approval,) = (await variet.client.get("/approvals")).json()["items"]
    for near in (
        "/approve",
        "approve {}",
        "/approve {} please",
        "/Approve {}",
        "May I /approve {}?",
    ):
        done = await say(client, near.format(approval["id"]))
        assert text_of(done) == "This is a scripted answer."
    assert (await variet.client.get("/approvals")).json()["items"] == [approval]
    assert probe.calls["change"] == 0


async def test_what_is_approved_is_what_is_read(client: AsyncOpenAI) -> None:
    hidden = {"tool_calls": [{"name": "change", "arguments": {"text": "a\u202eb\u200b\u2028c"}}]}
    told = text_of(await say(client, script(hidden)))
    assert r'{"text":"a\u{202e}b\u{200b}\u{2028}c"}' in told
    long = {"tool_calls": [{"name": "change", "arguments": {"text": "x" * 1_000}}]}
    told = text_of(await say(client, script(long)))
    assert "(1011 characters; see GET /approvals)" in told


async def test_an_approval_that_does_not_exist_is_not_found(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        await say(client, "/approve appr_00000000")
    assert error.value.code == "unknown_approval"


async def test_metadata_selects_a_thread(
    client: AsyncOpenAI, variet: Hands, engine: ScriptedEngine
) -> None:
    thread = (await variet.ask(script({"text": "First."})))["thread_id"]
    # The client's own copy of the conversation is not stored a second time.
    again = await say(client, "x", "y", "And then?", metadata={"thread_id": thread})
    assert again.metadata["thread_id"] == thread
    sent = [m["content"] for m in engine.calls[-1].body["messages"][1:]]
    assert sent == [script({"text": "First."}), "First.", "And then?"]
    with pytest.raises(openai.NotFoundError):
        await say(client, "hi", metadata={"thread_id": "thr_unknown"})


async def test_a_history_and_its_instructions_reach_the_engine(
    client: AsyncOpenAI, variet: Hands, engine: ScriptedEngine
) -> None:
    parts: Any = [{"type": "text", "text": "What"}, {"type": "text", "text": "now?"}]
    messages: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "developer", "content": "Use SI units."},
        {"role": "user", "content": parts},
    ]
    done = await client.chat.completions.create(model="variet", messages=messages)
    sent = [(m["role"], m["content"]) for m in engine.calls[-1].body["messages"][1:]]
    assert sent == [
        ("user", "Be brief.\n\nUse SI units.\n\nHi"),
        ("assistant", "Hello"),
        ("user", "What\nnow?"),
    ]
    thread = (await variet.client.get("/threads")).json()["items"][0]["id"]
    kept = (await variet.client.get(f"/threads/{thread}")).json()["messages"]
    assert [m["role"] for m in kept] == ["user", "assistant", "user", "assistant"]
    assert text_of(done) == kept[-1]["content"]


async def test_a_tier_goes_to_the_engine_untouched_and_comes_back_byte_for_byte(
    variet: Hands, engine: ScriptedEngine
) -> None:
    body = {
        "model": "fast",
        "messages": [{"role": "user", "content": "Grüße \u0000"}],
        "temperature": 0.30000000000000004,
        "seed": 12345678901234567890123,
        "unknown_key": {"deep": [1, None]},
        "tools": [{"type": "function", "function": {"name": "mine", "parameters": {}}}],
    }
    for stream in (False, True):
        reply = {"text": "ä b c", "tool_calls": [{"name": "mine", "arguments": {}, "id": "c1"}]}
        engine.script(reply, reply)
        sent = body | {"stream": stream}
        mine = await variet.client.post("/v1/chat/completions", json=sent)
        direct = await variet.client.post(f"{engine.url}/chat/completions", json=sent)
        assert engine.calls[-2].body == engine.calls[-1].body == sent
        assert mine.status_code == 200
        assert mine.headers["content-type"] == direct.headers["content-type"]
        assert without_time(mine.content) == without_time(direct.content)
    assert not (await variet.client.get("/runs")).json()["items"]


def without_time(answer: bytes) -> list[str]:
    return [part for part in answer.decode().split(",") if '"created"' not in part]


async def test_an_error_of_the_engine_passes_through_with_its_status(
    client: AsyncOpenAI, engine: ScriptedEngine
) -> None:
    engine.script({"status": 400, "error": "too long"}, {"status": 429, "error": "slow down"})
    hello: Any = [{"role": "user", "content": "hi"}]
    with pytest.raises(openai.BadRequestError, match="too long"):
        await client.chat.completions.create(model="deep", messages=hello)
    with pytest.raises(openai.RateLimitError):
        await client.chat.completions.create(model="deep", messages=hello, stream=True)


async def test_what_the_gateway_is_asked_and_tells_beside_an_answer_passes_through(
    tmp_path: Path, probe: Probe
) -> None:
    async def answer(_: Got, pipe: Pipe) -> None:
        refusal = b'{"error": {"message": "the queue is full"}}'
        await pipe.whole(refusal, 429, extra="Retry-After: 7\r\nX-Variet-Model: small\r\n")

    asked = {"x-request-id": "mine-1", "x-variet-progress": "1", "x-variet-priority": "background"}
    body = {"model": "fast", "messages": [{"role": "user", "content": "hi"}]}
    async with (
        ByteEngine(answer) as gateway,
        hands(f"{gateway.url}/v1", tmp_path, probe.server) as variet,
    ):
        told = await variet.client.post("/v1/chat/completions", json=body, headers=asked)
        assert told.status_code == 429
        assert (told.headers["retry-after"], told.headers["x-variet-model"]) == ("7", "small")
        assert any(asked.items() <= got.headers.items() for got in gateway.got)
        await variet.client.post("/v1/chat/completions", json=body)
        assert not asked.keys() & gateway.got[-1].headers.keys()


async def test_a_tier_s_own_error_event_stays_the_last_one(
    variet: Hands, engine: ScriptedEngine
) -> None:
    engine.script({"error_event": {"message": "out of memory", "code": "engine_broke_off"}})
    body = {"model": "fast", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    answer = await variet.client.post("/v1/chat/completions", json=body)
    assert answer.text.count('"error"') == 1
    assert "engine_broke_off" in answer.text


@pytest.mark.parametrize("fault", ["eof", "reset", "close"])
async def test_a_tier_whose_stream_breaks_off_ends_with_an_error(
    client: AsyncOpenAI, engine: ScriptedEngine, fault: str
) -> None:
    engine.script({"tokens": 5, "fault": fault, "fault_after": 2})
    hello: Any = [{"role": "user", "content": "hi"}]
    stream = await client.chat.completions.create(model="fast", messages=hello, stream=True)
    with pytest.raises(openai.APIError) as error:
        async for _ in stream:
            pass
    assert error.value.code == "engine_truncated"


async def test_a_dead_engine_is_unavailable_for_the_agent_and_for_a_tier(
    client: AsyncOpenAI, engine: ScriptedEngine
) -> None:
    await engine.stop()
    hello: Any = [{"role": "user", "content": "hi"}]
    for model in ("variet", "fast"):
        with pytest.raises(openai.InternalServerError) as error:
            await client.chat.completions.create(model=model, messages=hello)
        assert (error.value.status_code, error.value.code) == (503, "engine_unreachable")
        assert "doctor" in str(error.value)


async def test_a_failed_run_is_an_error_also_in_the_middle_of_a_stream(
    client: AsyncOpenAI,
) -> None:
    broken = script({"tokens": 5, "fault": "reset", "fault_after": 3})
    with pytest.raises(openai.APIStatusError) as whole:
        await say(client, broken)
    assert (whole.value.status_code, whole.value.code) == (502, "engine_truncated")
    stream = await say(client, broken, stream=True)
    with pytest.raises(openai.APIError) as streamed:
        async for _ in stream:
            pass
    assert streamed.value.code == "engine_truncated"


async def test_an_engine_that_wants_another_key_is_our_fault_and_not_the_callers(
    probe: Probe, tmp_path: Path
) -> None:
    async with (
        ScriptedEngine(key="secret") as engine,
        hands(engine.url, tmp_path, probe.server, engine={"key": "wrong"}) as variet,
        AsyncOpenAI(base_url=f"{variet.url}/v1", api_key="none", max_retries=0) as client,
    ):
        for model in ("variet", "fast"):
            with pytest.raises(openai.InternalServerError) as error:
                await client.chat.completions.create(
                    model=model, messages=[{"role": "user", "content": "hi"}]
                )
            assert (error.value.status_code, error.value.code) == (502, "engine_key")


async def test_a_tier_takes_the_name_that_the_engine_knows_it_by(
    engine: ScriptedEngine, probe: Probe, tmp_path: Path
) -> None:
    tiers = {"fast": "small-model"}
    async with hands(engine.url, tmp_path, probe.server, engine={"tiers": tiers}) as variet:
        hello = [{"role": "user", "content": "hi"}]
        answer = await variet.client.post(
            "/v1/chat/completions", json={"model": "fast", "messages": hello, "top_k": 3}
        )
        assert answer.json()["model"] == "small-model"
        assert engine.calls[-1].body == {"model": "small-model", "messages": hello, "top_k": 3}


async def test_models_are_the_agent_and_the_tiers(client: AsyncOpenAI) -> None:
    listed = [model.id async for model in client.models.list()]
    assert listed == ["variet", "fast", "balanced", "deep"]
    assert (await client.models.retrieve("variet")).owned_by == "variet"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("gpt-4")


BODY = {"model": "variet", "messages": [{"role": "user", "content": "hi"}]}
WRONG: list[tuple[dict[str, Any], int, str]] = [
    ({"model": "gpt-4"}, 404, "gpt-4"),
    ({"model": None}, 404, "None"),
    ({"messages": []}, 400, "messages"),
    ({"messages": [{"role": "king", "content": "x"}]}, 400, "role"),
    ({"messages": [{"role": "user", "content": ""}]}, 400, "messages.0.message"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "assistant"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "image_url"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "\ud800"}]}]},
        400,
        "text",
    ),
    ({"n": 2}, 400, "n"),
    ({"response_format": {"type": "json_schema"}}, 400, "json_schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 5}}}},
        422,
        "5",
    ),
]


async def test_a_wrong_request_is_an_error_that_names_what_is_wrong(variet: Hands) -> None:
    # Without the official client, which does not let all of these out.
    headers = {"content-type": "application/json"}
    for change, status, named in WRONG:
        body = json.dumps(BODY | change)
        answer = await variet.client.post("/v1/chat/completions", content=body, headers=headers)
        told = answer.json()["error"]
        assert answer.status_code == status
        assert named in told["message"]
        assert told["type"] == "invalid_request_error"
        assert told["code"]


async def test_embeddings_come_as_numbers_and_as_base64(
    engine: ScriptedEngine, probe: Probe, tmp_path: Path
) -> None:
    async with (
        hands(engine.url, tmp_path, probe.server, index=EmptyIndex()) as variet,
        AsyncOpenAI(base_url=f"{variet.url}/v1", api_key="none", max_retries=0) as client,
    ):
        found = await client.embeddings.create(model="any", input=["a", "bbb"])
        assert [e.embedding for e in found.data] == [[1.0, 0.5], [3.0, 0.5]]
        assert found.model == "all-MiniLM-L6-v2"
        one = await client.embeddings.create(model="any", input="xy", encoding_format="float")
        assert one.data[0].embedding == [2.0, 0.5]
        packed = await variet.client.post(
            "/v1/embeddings", json={"model": "any", "input": "xy", "encoding_format": "base64"}
        )
        raw = base64.b64decode(packed.json()["data"][0]["embedding"])
        assert list(array("f", raw)) == [2.0, 0.5]
        for wrong in ({"input": ""}, {"input": "x", "dimensions": 7}):
            answer = await variet.client.post("/v1/embeddings", json={"model": "any"} | wrong)
            assert answer.status_code == 400


async def test_embeddings_without_an_index_are_unavailable(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as error:
        await client.embeddings.create(model="any", input="x")
    assert error.value.status_code == 503
