"""Which JSON values can be carried."""

import json
from typing import Any

import orjson
import pytest

from orchestrator.agent.values import DEPTH_LIMIT, flaw, mended, mended_text


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("\ud800", "the value holds half a surrogate pair"),
        ({"a": [{"b": "x\udfff"}]}, "a.0.b holds half a surrogate pair"),
        ({"\ud800": 1}, "the value has the key '\\ud800', which is no text"),
        ({1: 2}, "the value has the key 1, which is no text"),
        ([float("inf")], "0 is inf, which is not JSON"),
        ({"n": 2**64}, "n is an integer of more than 64 bits"),
        ({"s": {1, 2}}, "s is a set, which is not JSON"),
    ],
)
def test_a_flaw_is_named_with_its_path(value: Any, told: str) -> None:
    assert flaw(value) == told


def test_depth_is_limited_however_deep_it_goes() -> None:
    deep: Any = 1
    for _ in range(DEPTH_LIMIT):
        deep = [deep]
    assert flaw(deep) is None
    assert "deeper" in str(flaw([deep]))
    for _ in range(100_000):
        deep = [deep]
    assert "deeper" in str(flaw(deep))
    assert mended({"a": deep, "b": "\ud800"})["b"] == "\ufffd"


def test_what_has_no_flaw_survives_being_written_and_read() -> None:
    value = {"a": [1, -(2**63), 2**64 - 1, 0.1, True, None, "ä\U0001f600\u0000"], "b": {}}
    assert flaw(value) is None
    assert orjson.loads(orjson.dumps(value)) == json.loads(json.dumps(value)) == value


def test_mended_text_joins_pairs_and_replaces_what_is_left() -> None:
    assert mended_text("a\ud83d\ude00b") == "a\U0001f600b"
    assert mended_text("a\ud83d") == "a\ufffd"
    assert mended({"\udfff": ["\ud800"]}) == {"\ufffd": ["\ufffd"]}
