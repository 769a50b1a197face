"""What is told of each request, and what never is."""

import asyncio
import gc
import json
import logging
from typing import Any

import pytest

from services.gateway.front.ending import is_done, take_figures, tells_error
from services.gateway.front.record import Record, access, log_to_stdout
from tests.services.gateway.front.byte_engine import EVENTS, WHOLE
from tests.services.gateway.front.conftest import ADMIN, USER, Front, a_front
from tests.services.gateway.front.memory_gate import KEY


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    records = [r for r in caplog.records if r.name == access.name]
    return [json.loads(line) for r in records for line in r.getMessage().split("\n")]


async def test_a_request_is_one_line_of_json(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, access.name)
    async with a_front() as front:
        headers = {"X-Request-Id": "r-1"}
        async with front.chat(stream=True, model="default", headers=headers) as answer:
            size = len(await answer.read())
    (line,) = lines(caplog)
    assert line.pop("time") > 0
    for name in ("queue_ms", "first_byte_ms", "total_ms"):
        assert line.pop(name) >= 0
    assert line == {
        "request_id": "r-1",
        "route": "chat",
        "model": "default",
        "engine": "small",
        "status": 200,
        "bytes": size,
        "prompt_tokens": 7,
        "tokens": 2,
        "cancelled": False,
        "key": "user",
    }


async def test_neither_prompts_nor_keys_are_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with a_front() as front:
        for model in ("fast", "no-such"):
            async with front.chat(model=model, stream=True, user="a-secret-word") as answer:
                await answer.read()
        async with front.admin("POST", "/tiers/fast/pin", data=b'{"x":"a-secret-word"}') as answer:
            await answer.read()
    assert len(lines(caplog)) == 3
    for word in ("a-secret-word", USER, ADMIN, KEY, "Hello"):
        assert word not in caplog.text


async def test_probes_are_not_worth_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, access.name)
    async with a_front() as front:
        for path in ("/health", "/ready", "/metrics"):
            async with front.http.get(front.url(path)) as answer:
                assert answer.status == 200
    assert lines(caplog) == []
    assert front.figure("requests_total", model="none", route="other", status="200") == 0


async def test_malformed_requests_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with a_front() as front:
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", front.site.port)
            writer.write(b"\x16\x03\x01 nonsense\r\n\r\n")
            async with asyncio.timeout(30):
                await reader.read()
            writer.close()
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_a_defect_ends_one_request_and_is_told_of(
    caplog: pytest.LogCaptureFixture, front: Front
) -> None:
    def defect() -> None:
        raise ZeroDivisionError("a defect of this test")

    front.gate.on_enter = defect
    async with front.chat() as answer:
        assert answer.status == 500
        body = await answer.text()
    assert "internal" in body
    assert "a defect of this test" not in body
    assert "a defect of this test" in caplog.text


async def test_figures_are_kept_by_engine_and_route(front: Front) -> None:
    for stream in (False, True):
        async with front.chat(stream=stream) as answer:
            await answer.read()
    async with front.chat(model="no-such-" + "x" * 50) as answer:
        assert answer.status == 404
    assert front.figure("requests_total", model="small", route="chat", status="200") == 2
    assert front.figure("requests_total", model="none", route="chat", status="404") == 1
    assert front.figure("tokens_total", model="small", kind="prompt") == 14
    assert front.figure("tokens_total", model="small", kind="completion") == 5
    assert front.figure("tokens_per_second", model="small") == 41.5
    assert front.figure("first_token_seconds_count", model="small") == 2
    assert front.figure("queue_wait_seconds_count", model="small", priority="chat") == 2
    assert front.gate.speeds == {"small": 41.5}


def test_the_log_goes_to_stdout_as_bare_lines(capsys: pytest.CaptureFixture[str]) -> None:
    before = access.handlers[:], access.level, access.propagate
    try:
        log_to_stdout()
        access.info('{"a": 1}')
        assert capsys.readouterr().out == '{"a": 1}\n'
    finally:
        access.handlers[:], access.level, access.propagate = before[0], before[1], before[2]


def figures(tail: bytes) -> tuple[int, int, float | None]:
    record = Record("chat", "r", 0.0)
    take_figures(record, tail)
    return record.prompt_tokens, record.tokens, record.tokens_per_s


@pytest.mark.parametrize(
    ("tail", "told"),
    [
        (b"".join(EVENTS), (7, 2, 41.5)),
        (WHOLE, (7, 3, 41.5)),
        (b"", (0, 0, None)),
        (b'"usage":null', (0, 0, None)),
        (b'{"usage": {"prompt_tokens" : 5, "completion_tokens":6}}', (5, 6, None)),
        (
            b'"timings":{"cache_n":4,"prompt_n":1,"predicted_n":9,"predicted_per_second":2}',
            (5, 9, 2),
        ),
        (rb'{"content":"\"usage\":{\"prompt_tokens\":99}"}', (0, 0, None)),
        # As many digits as no engine writes.
        (b'"usage":{"prompt_tokens":' + b"9" * 3_000 + b"}", (999_999_999_999, 0, None)),
    ],
)  # fmt: skip
def test_the_end_of_an_answer_tells_its_figures(
    tail: bytes, told: tuple[int, int, float | None]
) -> None:
    assert figures(tail) == told


@pytest.mark.parametrize(
    ("tail", "done"),
    [
        (b"data: [DONE]\n\n", True),
        (b"data:[DONE]\r\n\r\n", True),
        (b"data: [DONE]", True),
        (b"data: [DON", False),
        (b"", False),
        (b'data: {"content":"data: [DONE]"}\n\n', False),
    ],
)
def test_a_stream_is_whole_when_it_says_so(tail: bytes, done: bool) -> None:
    assert is_done(tail) is done


def test_an_engines_own_error_is_known() -> None:
    assert tells_error(b'data: {"x":1}\n\ndata: {"error":{"code":500}}\n\n')
    assert not tells_error(b'data: {"error":{}}\n\ndata: {"x":1}\n\n')
    assert not tells_error(b'data: {"choices":[{"error":1}]}\n\n')


async def test_many_requests_leave_nothing_behind(front: Front) -> None:
    async def some(count: int) -> int:
        for number in range(count):
            async with front.chat(stream=number % 2 == 0) as answer:
                await answer.read()
        front.engine.got.clear()
        front.gate.entered.clear()
        gc.collect()
        return len(gc.get_objects())

    await some(50)
    before = await some(50)
    after = await some(400)
    # 400 requests that each left one object would be seen.
    assert after - before < 200
