import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.errors import EngineError, EngineTimeout
from services.engine.options import EngineOptions
from services.engine.process import Backoff, EngineProcess, EngineState
from tests.support.tiny_gguf import write_tiny_gguf

CONTEXT = 4_096
TOOL = {
    "type": "function",
    "function": {
        "name": "get_map",
        "parameters": {
            "type": "object",
            "properties": {"key": {"type": "string", "enum": ["boost_target"]}},
            "required": ["key"],
            "additionalProperties": False,
        },
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"summary": {"type": "string", "maxLength": 30}, "n": {"type": "integer"}},
    "required": ["summary", "n"],
    "additionalProperties": False,
}
STRICT = {
    "type": "json_schema",
    "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tool_call_every=10)


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "endless.gguf", mean_tokens=0)


@pytest.fixture
async def engine(tiny: Path) -> AsyncIterator[EngineProcess]:
    engine = EngineProcess(EngineOptions(tiny, "tiny", context=CONTEXT, parallel=2))
    await engine.start()
    yield engine
    await engine.stop()


def client(engine: EngineProcess) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=engine.base_url,
        headers={"Authorization": f"Bearer {engine.api_key}"},
        timeout=30,
    )


async def complete(engine: EngineProcess, **body: Any) -> Any:
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 300, **body}
    async with client(engine) as http:
        answer = await http.post("/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def metric(engine: EngineProcess, name: str) -> float:
    async with client(engine) as http:
        text = (await http.get(engine.base_url.removesuffix("/v1") + "/metrics")).text
    return next(
        float(line.split()[1]) for line in text.splitlines() if line.startswith(f"llamacpp:{name} ")
    )


async def test_it_answers_under_its_alias_with_the_trained_context_or_the_given_one(
    engine: EngineProcess,
) -> None:
    answer = await complete(engine, max_tokens=8)
    assert answer["model"] == "tiny"
    assert answer["usage"]["completion_tokens"] > 0
    assert engine.context == CONTEXT
    assert engine.state == EngineState("ready", 0, f"tiny answers at {engine.base_url}.")


@pytest.mark.parametrize("path", ["/models", "/chat/completions", "/completions", "/embeddings"])
async def test_every_route_but_health_refuses_without_the_key(
    engine: EngineProcess, path: str
) -> None:
    async with httpx.AsyncClient(base_url=engine.base_url) as http:
        assert (await http.post(path, json={})).status_code == 401
        assert (await http.get(path)).status_code == 401
        health = await http.get(engine.base_url.removesuffix("/v1") + "/health")
        assert health.status_code == 200


async def test_no_page_of_another_origin_may_read_its_answers(engine: EngineProcess) -> None:
    async with client(engine) as http:
        answer = await http.get("/models", headers={"Origin": "http://elsewhere.example"})
    assert answer.headers.get("access-control-allow-origin", "") == ""


async def test_each_slot_has_the_whole_context(engine: EngineProcess) -> None:
    async with client(engine) as http:
        props = (await http.get(engine.base_url.removesuffix("/v1") + "/props")).json()
    assert props["default_generation_settings"]["n_ctx"] == CONTEXT
    assert props["total_slots"] == 2
    long = {"role": "user", "content": "a b " * (CONTEXT // 4 - 100)}
    answers = await asyncio.gather(
        complete(engine, messages=[long], max_tokens=4),
        complete(engine, messages=[long], max_tokens=4),
    )
    assert all(answer["usage"]["prompt_tokens"] > CONTEXT / 2 for answer in answers)


async def test_a_prompt_over_the_context_is_refused_with_both_lengths(
    engine: EngineProcess,
) -> None:
    async with client(engine) as http:
        messages = [{"role": "user", "content": "a b " * CONTEXT}]
        answer = await http.post("/chat/completions", json={"messages": messages})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "exceed_context_size_error"
    assert error["n_ctx"] == CONTEXT < error["n_prompt_tokens"]


async def test_tools_stay_in_the_prompt_of_a_structured_answer(engine: EngineProcess) -> None:
    without = await complete(engine, max_tokens=1)
    calling = await complete(engine, tools=[TOOL], max_tokens=1)
    structured = await complete(engine, tools=[TOOL], tool_choice="none", response_format=STRICT)
    tokens = calling["usage"]["prompt_tokens"]
    assert tokens > without["usage"]["prompt_tokens"]
    assert structured["usage"]["prompt_tokens"] == tokens
    message = structured["choices"][0]["message"]
    assert not message.get("tool_calls")
    assert set(json.loads(message["content"])) == {"summary", "n"}


async def test_a_tool_call_obeys_the_tools_schema(engine: EngineProcess) -> None:
    plain = {"top_k": 0, "top_p": 1, "min_p": 0, "temperature": 1, "seed": 1}
    answer = await complete(engine, tools=[TOOL], tool_choice="required", **plain)
    calls = answer["choices"][0]["message"]["tool_calls"]
    assert json.loads(calls[0]["function"]["arguments"]) == {"key": "boost_target"}


async def test_the_prompt_of_a_thread_is_not_computed_twice(engine: EngineProcess) -> None:
    first = {"role": "user", "content": "a long beginning " * 20}
    await complete(engine, messages=[first], max_tokens=1)
    second = await complete(
        engine,
        messages=[first, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
        max_tokens=1,
    )
    usage = second["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] > usage["prompt_tokens"] / 2


async def test_a_model_thinks_only_when_it_is_asked_to(engine: EngineProcess) -> None:
    async def prompt_tokens(**body: Any) -> int:
        return int((await complete(engine, max_tokens=1, **body))["usage"]["prompt_tokens"])

    thinking = await prompt_tokens(chat_template_kwargs={"enable_thinking": True})
    # The template closes an empty thought in advance.
    assert await prompt_tokens() > thinking


async def test_a_client_that_leaves_stops_the_generation(endless: Path) -> None:
    engine = EngineProcess(EngineOptions(endless, "endless", context=100_000))
    await engine.start()
    body = {"messages": [{"role": "user", "content": "hello"}], "stream": True}
    async with client(engine) as http:
        async with http.stream("POST", "/chat/completions", json=body) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            assert await metric(engine, "requests_processing") == 1
        async with asyncio.timeout(5):
            while await metric(engine, "requests_processing"):
                pass
        assert await metric(engine, "tokens_predicted_total") < 50_000
    await engine.stop()


async def test_a_log_line_without_end_harms_nothing(tiny: Path) -> None:
    """A refused schema is logged whole, and a client chooses its length."""
    log: list[str] = []
    engine = EngineProcess(EngineOptions(tiny, "tiny", context=CONTEXT), on_log=log.append)
    await engine.start()
    pattern = f"^(?=x)({'|'.join(f'x{n}' for n in range(400_000))})$"
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}}
    response_format = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    await complete(engine, max_tokens=1, response_format=response_format)
    await complete(engine, max_tokens=1)
    await engine.stop()
    assert "[a line of more than 1 MiB was left out]" in log
    assert engine.state.status == "stopped"


async def test_a_killed_engine_comes_back_at_the_same_address(tiny: Path) -> None:
    states: asyncio.Queue[EngineState] = asyncio.Queue()
    engine = EngineProcess(
        EngineOptions(tiny, "tiny", context=CONTEXT),
        on_state=states.put_nowait,
        backoff=Backoff(first=0.01),
    )
    await engine.start()
    url, key, first = engine.base_url, engine.api_key, engine.pid
    # Open connections must not keep the port from the successor.
    async with client(engine) as http:
        await http.get("/models")
        assert first is not None
        os.kill(first, signal.SIGKILL)
        while (state := await asyncio.wait_for(states.get(), 10)).status != "restarting":
            pass
        assert state.detail == "The engine ended by signal 9."
        await engine.wait_ready(10)
    assert (engine.base_url, engine.api_key) == (url, key)
    assert engine.pid != first
    assert engine.state.restarts == 1
    assert (await complete(engine, max_tokens=4))["usage"]["completion_tokens"] > 0
    await engine.stop()
    assert engine.state.status == "stopped"


async def test_an_engine_that_cannot_restart_says_so_and_recovers(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    states: asyncio.Queue[EngineState] = asyncio.Queue()
    engine = EngineProcess(
        EngineOptions(model, "tiny", context=CONTEXT),
        on_state=states.put_nowait,
        backoff=Backoff(first=0.01, most=0.05),
    )
    await engine.start()
    hidden = model.rename(tmp_path / "hidden.gguf")
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    while "There is no model file" not in (await asyncio.wait_for(states.get(), 10)).detail:
        pass
    hidden.rename(model)
    await engine.wait_ready(10)
    assert engine.state.restarts >= 2
    await engine.stop()


async def test_a_machine_that_can_start_no_process_is_waited_for(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: asyncio.Queue[EngineState] = asyncio.Queue()
    engine = EngineProcess(
        EngineOptions(tiny, "tiny", context=CONTEXT),
        on_state=states.put_nowait,
        backoff=Backoff(first=0.01, most=0.05),
    )
    await engine.start()
    with monkeypatch.context() as exhausted:
        exhausted.setattr(sys, "executable", "/nowhere/python")
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        while "cannot be started" not in (await asyncio.wait_for(states.get(), 10)).detail:
            pass
    await engine.wait_ready(10)
    await engine.stop()


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "model_missing"),
        (b"hello, I am text", "not_gguf"),
        (b"GGUF\x03\0\0\0", "model_damaged"),
    ],
)
async def test_a_wrong_file_is_named_and_nothing_is_left_running(
    tmp_path: Path, content: bytes | None, code: str
) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    engine = EngineProcess(EngineOptions(path, "x"))
    with pytest.raises(EngineError, match=r"model\.gguf") as caught:
        await engine.start()
    assert caught.value.code == code
    assert caught.value.remedy
    assert engine.pid is None
    assert engine.state.status == "stopped"


@pytest.fixture
def cut(tmp_path: Path, tiny: Path) -> Path:
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny.read_bytes()[:300_000])
    return path


async def test_a_cut_file_is_named(cut: Path) -> None:
    with pytest.raises(EngineError, match="it has 300000 bytes") as caught:
        await EngineProcess(EngineOptions(cut, "x")).start()
    assert caught.value.code == "model_damaged"


async def test_a_taken_port_is_named(tiny: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=f"127.0.0.1:{port}") as caught:
            await EngineProcess(EngineOptions(tiny, "x", context=512, port=port)).start()
    assert caught.value.code == "engine_port"


async def test_a_context_beyond_memory_is_named(tiny: Path) -> None:
    options = EngineOptions(tiny, "x", context=1_000_000_000, parallel=2)
    with pytest.raises(EngineError, match="2 x 1000000000 tokens") as caught:
        await EngineProcess(options).start()
    assert caught.value.code == "engine_out_of_memory"
    assert "MAX_MODEL_LEN" in caught.value.remedy


async def test_a_start_that_takes_too_long_is_given_up(tiny: Path) -> None:
    engine = EngineProcess(EngineOptions(tiny, "x", context=512), ready_timeout_s=0.001)
    with pytest.raises(EngineTimeout, match="was not loaded within"):
        await engine.start()
    assert engine.pid is None


PARENT = """
import asyncio, sys
from pathlib import Path
from services.engine.options import EngineOptions
from services.engine.process import EngineProcess

async def main():
    engine = EngineProcess(EngineOptions(Path(sys.argv[1]), "tiny", context=512))
    await engine.start()
    print(engine.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="watches the process through a pidfd")
async def test_the_engine_ends_when_its_parent_is_killed(tiny: Path) -> None:
    parent = subprocess.Popen(  # noqa: ASYNC220 - the parent must be another process
        [sys.executable, "-c", PARENT, str(tiny)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    gone = os.pidfd_open(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(gone, ended.set)
    await asyncio.wait_for(ended.wait(), 5)
    loop.remove_reader(gone)
    os.close(gone)


async def test_without_a_key_it_does_not_start(tiny: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.engine",
        f"--model={tiny}",
        "--alias=x",
        stdout=asyncio.subprocess.PIPE,
        env={key: value for key, value in os.environ.items() if key != "ENGINE_API_KEY"},
    )
    out, _ = await process.communicate()
    assert process.returncode == 2
    assert json.loads(out)["error"]["code"] == "no_engine_key"


async def test_sigterm_ends_it_at_once_even_while_it_streams(endless: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.engine",
        f"--model={endless}",
        "--alias=x",
        "--context=100000",
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "ENGINE_API_KEY": "key"},
    )
    assert process.stdout is not None
    report = json.loads(await process.stdout.readline())
    body = {"messages": [{"role": "user", "content": "hello"}], "stream": True}
    headers = {"Authorization": "Bearer key"}
    async with (
        httpx.AsyncClient(base_url=report["url"], headers=headers) as http,
        http.stream("POST", "/chat/completions", json=body) as answer,
    ):
        lines = answer.aiter_lines()
        await anext(lines)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 3) == 0


def test_backoff_doubles_up_to_its_bound() -> None:
    backoff = Backoff(first=0.2, most=3)
    assert [backoff.delay(n) for n in range(6)] == [0.2, 0.4, 0.8, 1.6, 3, 3]
    assert backoff.delay(10_000) == 3
