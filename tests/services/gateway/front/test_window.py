"""Prompts beyond a model's window."""

from dataclasses import replace

import orjson
import pytest

from services.gateway.front import window
from services.gateway.front.window import RUN, engine_says_too_long, surely_too_long
from tests.services.gateway.front.byte_engine import WHOLE, Got, Pipe
from tests.services.gateway.front.conftest import Front
from tests.services.gateway.front.memory_gate import known

LLAMA = orjson.dumps(
    {
        "error": {
            "code": 400,
            "message": "the request exceeds the available context size, try increasing it",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": 5_000,
            "n_ctx": 4_096,
        }
    }
)
VLLM = orjson.dumps(
    {
        "error": {
            "message": "This model's maximum context length is 4096 tokens. However, you requested"
            " 5000 tokens (4900 in the messages, 100 in the completion).",
            "type": "BadRequestError",
            "code": 400,
        }
    }
)
WORDS = "A prompt of many different words, none of which a tokenizer takes for a run. "


@pytest.mark.parametrize("refusal", [LLAMA, VLLM])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_prompt_beyond_the_window_goes_to_the_longer_model(
    front: Front, refusal: bytes, stream: bool
) -> None:
    async def answer(got: Got, pipe: Pipe) -> None:
        if len(front.engine.got) == 1:
            await pipe.whole(refusal, 400)
        else:
            await pipe.whole(WHOLE)

    front.engine.answer = answer
    async with front.chat(stream=stream) as passed:
        assert passed.status == 200
        assert passed.headers["X-Variet-Model"] == "large"
        assert await passed.read() == WHOLE
    assert [name for name, _, _ in front.gate.entered] == ["small", "large"]
    assert front.engine.got[0].body == front.engine.got[1].body
    assert front.gate.total == 0


async def test_a_longer_model_that_checks_names_is_asked_by_one_of_its_own(front: Front) -> None:
    names = known()
    large = names.engines["large"]
    checking = replace(large, entry=large.entry.model_copy(update={"engine": "vllm"}))
    front.gate.names = replace(names, engines={**names.engines, "large": checking})

    async def answer(got: Got, pipe: Pipe) -> None:
        if got.json["model"] in (checking.checked_names or ()):
            await pipe.whole(WHOLE)
        elif len(front.engine.got) == 1:
            await pipe.whole(LLAMA, 400)
        else:
            await pipe.whole(b'{"error":{"message":"does not exist","code":404}}', 404)

    front.engine.answer = answer
    async with front.chat(seed=7) as passed:
        assert passed.status == 200
    first, second = (got.json for got in front.engine.got)
    assert (first["model"], second["model"]) == ("fast", "large")
    assert {**second, "model": "fast"} == first
    async with front.chat(model="clever") as passed:
        assert passed.status == 200
    assert front.engine.got[-1].json["model"] == "clever", "a name of its own stays"


@pytest.mark.parametrize("refusal", [LLAMA, VLLM])
async def test_without_a_longer_model_the_window_is_named(front: Front, refusal: bytes) -> None:
    async def answer(_: Got, pipe: Pipe) -> None:
        await pipe.whole(refusal, 400)

    front.engine.answer = answer
    async with front.chat(model="large") as passed:
        assert passed.status == 400
        error = (await passed.json())["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["type"] == "invalid_request_error"
    assert "8192" in error["message"]
    assert "5000" in error["message"]


async def test_a_prompt_that_surely_cannot_fit_loads_nothing_for_it(front: Front) -> None:
    front.gate.contexts = {"small": 256}
    async with front.chat(messages=[{"role": "user", "content": WORDS * 30}]) as passed:
        assert passed.status == 200
        assert passed.headers["X-Variet-Model"] == "large"
    assert [name for name, _, _ in front.gate.entered] == ["large"]


async def test_one_that_fits_nowhere_enters_nowhere(front: Front) -> None:
    front.gate.contexts = {"small": 256, "large": 256}
    async with front.chat(messages=[{"role": "user", "content": WORDS * 30}]) as passed:
        assert passed.status == 400
        assert (await passed.json())["error"]["code"] == "context_length_exceeded"
    assert front.gate.entered == []


@pytest.mark.parametrize(
    ("status", "refusal", "numbers"),
    [
        (
            500,
            {
                "code": 500,
                "message": "input (16000 tokens) is too large to process. increase the physical"
                " batch size (current batch size: 2048)",
                "type": "server_error",
            },
            ("2048", "16000"),
        ),
        (
            413,
            "Input validation error: `inputs` must have less than 512 tokens. Given: 700",
            ("512", "700"),
        ),
    ],
)
async def test_an_input_that_no_batch_takes_is_the_clients_to_shorten(
    front: Front, status: int, refusal: object, numbers: tuple[str, str]
) -> None:
    async def answer(_: Got, pipe: Pipe) -> None:
        await pipe.whole(orjson.dumps({"error": refusal}), status)

    front.engine.answer = answer
    body = {"model": "words", "input": "many words"}
    async with front.http.post(front.url("/v1/embeddings"), json=body) as passed:
        assert passed.status == 400
        error = (await passed.json())["error"]
    assert error["code"] == "context_length_exceeded"
    for number in numbers:
        assert number in error["message"]


async def test_another_400_is_no_matter_of_the_window(front: Front) -> None:
    async def answer(_: Got, pipe: Pipe) -> None:
        await pipe.whole(b'{"error":{"message":"context is a word","type":"x"}}', 400)

    front.engine.answer = answer
    async with front.chat() as passed:
        assert passed.status == 400
    assert len(front.gate.entered) == 1


def too_long(value: dict[str, object]) -> bool:
    return surely_too_long(value, len(orjson.dumps(value)), 256)


def said(content: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": content}]}


def test_text_counts_and_pictures_do_not() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + WORDS * 100}}
    assert not too_long(said([picture, {"type": "text", "text": "What is this?"}]))
    assert too_long(said([picture, {"type": "text", "text": WORDS * 30}]))
    assert too_long({"prompt": WORDS * 30})
    assert not too_long({"prompt": WORDS * 20})


def test_a_list_of_prompts_is_as_long_as_its_longest() -> None:
    assert not too_long({"prompt": [WORDS * 20] * 10})
    assert too_long({"prompt": ["short", WORDS * 30]})


def test_tokens_given_as_numbers_are_counted() -> None:
    assert too_long({"prompt": [1] * 300})
    assert too_long({"prompt": [[1], [1] * 300]})
    assert not too_long({"prompt": [1] * 256})


def test_runs_of_one_character_may_be_one_token() -> None:
    assert not too_long({"prompt": "x = 1" + " " * 50_000})
    assert not too_long({"prompt": "=" * 50_000})


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": [" " * 3_000] * 20_000},
        said([{"type": "text", "text": "=" * 3_000}] * 20_000),
        said("=" * 60_000_000),
    ],
)
def test_of_a_body_as_large_as_may_be_no_more_is_looked_at_than_others_can_wait_for(
    value: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = 0

    class Counting:
        @staticmethod
        def sub(by: str, text: str) -> str:
            nonlocal looked
            looked += len(text)
            return RUN.sub(by, text)

    monkeypatch.setattr(window, "RUN", Counting)
    assert not surely_too_long(value, 60_000_000, 32_768)
    assert 0 < looked <= 2_200_000


@pytest.mark.parametrize(
    "value",
    [
        {"messages": None},
        {"messages": [None, 1, {"content": 5}, {"content": [None, {"text": 7}]}]},
        {"prompt": {"a": WORDS * 100}},
        {"prompt": [None, {"a": 1}] * 3_000},
    ],
)
def test_what_is_no_prompt_is_the_engines_to_refuse(value: dict[str, object]) -> None:
    assert not surely_too_long(value, 1_000_000, 256)


@pytest.mark.parametrize(
    ("message", "tokens"),
    [
        ("maximum context length is 9 tokens. However, you requested 12 tokens", 12),
        ("The decoder prompt (length 20000) is longer than the maximum model length of 9", 20_000),
        ("Input length (77) exceeds model's maximum context length (9).", 77),
        ("maximum context length is 9. Your request has 10 input tokens.", 10),
        ("beyond the maximum context length", None),
    ],
)
def test_what_vllm_says_of_the_window_is_understood(message: str, tokens: int | None) -> None:
    found = engine_says_too_long(400, {"message": message})
    assert found is not None
    assert found.tokens == tokens
