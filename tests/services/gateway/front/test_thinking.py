"""The one key that is renamed, and all else that is not."""

from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.front.thinking import Lines, renamed
from tests.services.gateway.front.byte_engine import Got, Pipe
from tests.services.gateway.front.conftest import Front


def delta(**fields: Any) -> bytes:
    return orjson.dumps({"choices": [{"index": 0, "delta": fields}]})


def message(**fields: Any) -> bytes:
    return orjson.dumps({"choices": [{"index": 0, "message": fields}]})


def test_the_key_of_a_message_or_delta_is_renamed_and_nothing_else_touched() -> None:
    spaced = b'{ "choices":[ {"delta" : {"reasoning" : "1.50", "content":null}} ] , "x":1.50}'
    assert renamed(spaced) == spaced.replace(b'"reasoning"', b'"reasoning_content"')
    assert orjson.loads(renamed(message(reasoning="a", content="b"))) == orjson.loads(
        message(reasoning_content="a", content="b")
    )


@pytest.mark.parametrize(
    "text",
    [
        delta(content='"reasoning": 1'),
        delta(content="reasoning"),
        delta(reasoning_content="a"),
        delta(content='{"reasoning":"x"}', tool_calls=[{"arguments": '{"reasoning":1}'}]),
        orjson.dumps({"reasoning": {"effort": "low"}, "choices": [{"delta": {}}]}),
        orjson.dumps({"usage": {"reasoning": 5}}),
        b'{"choices":[{"delta":{"say \\"reasoning":1}}]}',
        b'{"reasoning":',
        b'["reasoning"]',
        b"",
    ],
)
def test_the_word_elsewhere_is_left_alone(text: bytes) -> None:
    assert renamed(text) == text


def test_the_key_is_renamed_where_it_is_ours_and_left_where_it_is_not() -> None:
    text = orjson.dumps({"reasoning": {"effort": 1}, "choices": [{"delta": {"reasoning": "a"}}]})
    found = orjson.loads(renamed(text))
    assert found == {
        "reasoning": {"effort": 1},
        "choices": [{"delta": {"reasoning_content": "a"}}],
    }


def test_one_that_already_has_both_keeps_them() -> None:
    text = delta(reasoning="a", reasoning_content="a")
    assert renamed(text) == text


STREAM = b"".join(
    [
        b": ping\n\n",
        b"data: " + delta(role="assistant", content="") + b"\n\n",
        b"data: " + delta(reasoning='He said "reasoning": \u00e4') + b"\r\n\r\n",
        b"data:" + delta(reasoning="", content="x") + b"\n\n",
        b'event: x\nid: "reasoning":\n',
        b"data: " + delta(content='{"reasoning":1}') + b"\n\n",
        b"data: [DONE]\n\n",
    ]
)
RENAMED = STREAM.replace(b'"delta":{"reasoning"', b'"delta":{"reasoning_content"')


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(ends)]


@given(st.lists(st.integers(min_value=0), max_size=40))
def test_a_stream_is_renamed_wherever_it_is_cut(places: list[int]) -> None:
    lines = Lines(rename=True)
    told = b"".join([*map(lines.feed, cut(STREAM, places)), lines.rest()])
    assert told == RENAMED
    assert told.count(b"reasoning_content") == 2


@given(st.binary(max_size=300), st.lists(st.integers(min_value=0), max_size=20), st.booleans())
def test_any_other_bytes_come_out_as_they_went_in(
    data: bytes, places: list[int], rename: bool
) -> None:
    lines = Lines(rename)
    assert b"".join([*map(lines.feed, cut(data, places)), lines.rest()]) == data


@given(st.lists(st.integers(min_value=0), max_size=40))
def test_what_is_given_on_ends_with_a_line(places: list[int]) -> None:
    lines = Lines(rename=False)
    for piece in cut(STREAM, places):
        given_on = lines.feed(piece)
        assert given_on == b"" or given_on.endswith(b"\n")


def test_a_line_without_an_end_does_not_fill_the_memory() -> None:
    lines = Lines(rename=True)
    sent = sum(len(lines.feed(b"x" * 65_536)) for _ in range(200))
    assert sent > 199 * 65_536 - 5 * 2**20


async def test_a_client_of_vllm_sees_llama_servers_field(front: Front) -> None:
    async def answer(got: Got, pipe: Pipe) -> None:
        if got.json.get("stream"):
            await pipe.stream(*(STREAM[at : at + 13] for at in range(0, len(STREAM), 13)))
        else:
            await pipe.whole(message(reasoning="a", content="b"))

    front.engine.answer = answer
    async with front.chat(model="deep", stream=True) as passed:
        assert await passed.read() == RENAMED
    async with front.chat(model="deep") as passed:
        assert (await passed.json())["choices"][0]["message"]["reasoning_content"] == "a"
    async with front.chat(model="balanced", stream=True) as passed:
        assert await passed.read() == STREAM
