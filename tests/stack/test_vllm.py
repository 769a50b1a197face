"""The gateway's code before a real vLLM: on the processor, with a model made at random.

What needs a card cannot be seen here: that sleep frees memory, and NVML.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from services.gateway.catalogue import EngineSpec
from services.gateway.engines.calls import EngineCalls
from services.gateway.engines.commands import Hub, vllm
from services.gateway.engines.readiness import until_ready
from services.gateway.engines.vllm_sleep import put_to_sleep, sleeps, wake_up
from tests.services.gateway.front.conftest import Front, a_front, until
from tests.services.gateway.front.memory_gate import KEY, MemoryGate, known
from tests.stack.recipes import tiny_model
from tests.stack.report import Report
from tests.stack.vllm_process import NotInstalled, VllmProcess, interpreter, start

pytestmark = pytest.mark.stack

FLAGS = ("--enforce-eager", "--kv-cache-memory-bytes", "64M", "--reasoning-parser", "qwen3")
LOAD_S = 900
TOKENS = 40
LOOKS = 300
# They ask for no key, or run a model behind the gateway's back.
UNGUARDED = ("/invocations", "/tokenize", "/metrics", "/version", "/load", "/openapi.json")
DANGEROUS = ("/sleep", "/wake_up", "/collective_rpc", "/pause", "/server_info", "/pooling")


def spec() -> EngineSpec:
    (found,) = (one for one in known().engines.values() if "deep" in one.tiers)
    return replace(found, context=tiny_model.WINDOW, flags=FLAGS)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, report: Report) -> Iterator[VllmProcess]:
    folder = tmp_path_factory.mktemp("vllm")
    try:
        with report.timed("vLLM for the processor"):
            python = interpreter()
    except NotInstalled as error:
        pytest.skip(f"needs vLLM's packages: {error}")
    tiny_model.write(folder / "model")
    launch = vllm(spec(), tiny_model.WINDOW, key=KEY, memory_share=0.1, hub=Hub())
    process = start(python, launch, folder / "model", folder)
    try:
        with report.timed("vLLM's start"):
            phases = asyncio.run(ready(process))
        assert phases[-1] == (1.0, "ready")
        yield process
    finally:
        process.end()


async def ready(process: VllmProcess) -> list[tuple[float | None, str]]:
    """What the gateway tells of its load, in order."""
    phases: list[tuple[float | None, str]] = []
    calls = EngineCalls()
    try:
        await until_ready(spec(), process, calls, LOAD_S, lambda *told: phases.append(told))
    finally:
        await calls.close()
    return phases


@pytest.fixture
async def front(engine: VllmProcess) -> AsyncIterator[Front]:
    async with a_front(gate=MemoryGate()) as made:
        made.gate.url = engine.base_url
        yield made


@pytest.fixture
async def calls() -> AsyncIterator[EngineCalls]:
    made = EngineCalls()
    yield made
    await made.close()


async def test_it_is_called_as_the_gateway_calls_it(
    engine: VllmProcess, calls: EngineCalls
) -> None:
    told = (await calls.get(f"{engine.base_url}/v1/models", KEY)).json
    assert {model["id"] for model in told["data"]} >= set(spec().names)
    assert told["data"][0]["max_model_len"] == tiny_model.WINDOW


async def test_a_stream_passes_with_its_thinking_under_the_one_name(front: Front) -> None:
    body = {"max_tokens": TOKENS, "temperature": 1, "seed": 7, "ignore_eos": True}
    async with front.chat(stream=True, model="deep", **body) as answer:
        assert answer.status == 200, await answer.text()
        text = await answer.text()
    *events, last = re.findall(r"^data: (.*)$", text, re.M)
    assert last == "[DONE]"
    deltas = [choice["delta"] for event in events for choice in json.loads(event)["choices"]]
    keys = {key for delta in deltas for key in delta}
    assert "reasoning" not in keys
    assert keys & {"content", "reasoning_content"}
    assert sum(bool(d.get("content") or d.get("reasoning_content")) for d in deltas) > 1


async def test_thinking_that_vllm_tells_apart_arrives_as_reasoning_content(
    front: Front, engine: VllmProcess, calls: EngineCalls
) -> None:
    """The engine itself calls it `reasoning`: what the gateway renames is really there."""
    body: dict[str, Any] = {
        "model": "deep",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": TOKENS,
        "temperature": 1,
        "seed": 7,
        "ignore_eos": True,
    }
    direct = await calls.post(f"{engine.base_url}/v1/chat/completions", KEY, body, 120)
    said = direct.json["choices"][0]["message"]
    async with front.chat(**body) as answer:
        passed = (await answer.json())["choices"][0]["message"]
    assert said["reasoning"], said
    assert passed["reasoning_content"]
    assert "reasoning" not in passed


async def test_what_it_leaves_open_the_gateway_closes(
    front: Front, engine: VllmProcess, calls: EngineCalls
) -> None:
    open_there = [
        path for path in UNGUARDED if (await calls.get(f"{engine.base_url}{path}")).status == 200
    ]
    assert {"/metrics", "/version", "/openapi.json"} <= set(open_there)
    # Whoever reaches its port may put it to sleep, key or not: only its network keeps them away.
    assert (await calls.get(f"{engine.base_url}/is_sleeping")).status == 200
    for path in {*UNGUARDED, *DANGEROUS} - {"/metrics"}:  # the gateway has its own
        for method in ("GET", "POST"):
            async with front.http.request(method, front.url(path), data=b"{}") as answer:
                seen = await answer.text()
            assert answer.status in (403, 404, 405), (method, path, seen)
            assert "vllm" not in seen.lower()


async def test_it_sleeps_and_wakes_as_the_gateway_has_it(
    front: Front, engine: VllmProcess, calls: EngineCalls
) -> None:
    sleeper, phases = replace(spec(), sleep=1), list[str]()
    await put_to_sleep(sleeper, engine.base_url, KEY, calls)
    assert await sleeps(engine.base_url, KEY, calls)
    await wake_up(sleeper, engine.base_url, KEY, calls, lambda _, told: phases.append(told))
    assert not await sleeps(engine.base_url, KEY, calls)
    assert phases == ["waking up", "ready"]
    async with front.chat(model="deep", max_tokens=2) as answer:
        assert answer.status == 200


async def test_who_leaves_ends_the_work_of_the_engine(front: Front, engine: VllmProcess) -> None:
    before = await finished(engine, "length")
    body = {"max_tokens": tiny_model.WINDOW - 200, "ignore_eos": True}
    answer = await front.chat(stream=True, model="deep", **body)
    await answer.content.readline()
    answer.close()
    await until(lambda: front.gate.total == 0)
    for _ in range(LOOKS):
        if not await running(engine):
            break
        await asyncio.sleep(0.1)
    assert await running(engine) == 0
    assert await finished(engine, "length") == before, "it went on to its last token"


async def running(engine: VllmProcess) -> float:
    return await figure(engine, r"vllm:num_requests_running\{[^}]*\} (\S+)")


async def finished(engine: VllmProcess, reason: str) -> float:
    pattern = rf'vllm:request_success_total\{{[^}}]*finished_reason="{reason}"[^}}]*\}} (\S+)'
    return await figure(engine, pattern)


async def figure(engine: VllmProcess, pattern: str) -> float:
    async with aiohttp.ClientSession() as http, http.get(f"{engine.base_url}/metrics") as answer:
        found = re.search(pattern, await answer.text())
    assert found, pattern
    return float(found[1])
