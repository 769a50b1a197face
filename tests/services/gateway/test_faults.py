"""What engines do wrong, end to end: a real gateway, real processes, and HTTP."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.services.gateway.brain import FLAGS, USER, Brain, Client, chat_body, running

DEADLINE_S = 60.0
# Each fits alone only.
ALONE = {"GATEWAY_RAM_MIB": "150"}
pytestmark = pytest.mark.timeout(180)


async def until(client: Client, name: str, fits: Callable[[dict[str, Any]], bool]) -> None:
    """Returns when what GET /tiers tells of an engine `fits`."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            if fits((await client.tiers())[name]):
                return
            await asyncio.sleep(0.05)


async def test_a_slow_load_is_waited_for_and_its_progress_told(tmp_path: Path) -> None:
    brain = Brain(tmp_path, settings=ALONE)
    brain.fault("fast", load_s=1.5)
    async with running(brain) as (_, client):
        headers = {"Authorization": f"Bearer {USER}", "X-Variet-Progress": "1"}
        url = f"{client.url}/v1/chat/completions"
        body = chat_body("fast", stream=True)
        async with client.session.post(url, json=body, headers=headers) as answer:
            text = await answer.text()
        assert answer.status == 200
        assert '"stage": "loading"' in text.replace('":"', '": "')
        assert text.rstrip().endswith("data: [DONE]")


async def test_a_crash_during_a_load_is_a_503_with_the_engines_last_words(tmp_path: Path) -> None:
    brain = Brain(tmp_path, settings=ALONE)
    brain.fault("fast", load_s=0.1, crash_load=True)
    async with running(brain) as (_, client):
        answer = await client.chat("fast")
        assert answer.status == 503
        assert "tensor 'blk.3.ffn_up.weight' data is not ok" in answer.error["message"]
        assert int(answer.headers["Retry-After"]) >= 1
        assert (await client.tiers())["fast-model"]["state"] == "failed"
        # The others are none the worse.
        assert (await client.chat("balanced")).status == 200
        assert len(brain.engines_alive()) == 1


async def test_a_crash_within_a_stream_is_an_error_event_and_no_end(tmp_path: Path) -> None:
    brain = Brain(tmp_path, settings=ALONE)
    async with running(brain) as (_, client):
        assert (await client.chat("fast")).status == 200
        brain.fault("fast", crash_after=3)
        answer = await client.chat("fast", stream=True)
        assert answer.status == 200
        assert '"error"' in answer.text
        assert "[DONE]" not in answer.text
        brain.fault("fast")
        assert (await client.chat("fast")).status == 200
        assert (await client.tiers())["fast-model"]["restarts"] == 1
        assert len(brain.engines_alive()) == 1


async def test_one_that_is_never_ready_is_given_up_after_the_time_limit(tmp_path: Path) -> None:
    brain = Brain(tmp_path, settings={**ALONE, "GATEWAY_LOAD_TIMEOUT_S": "1"})
    brain.fault("fast", never_ready=True)
    async with running(brain) as (_, client):
        answer = await client.chat("fast")
        assert answer.status == 503
        assert "GATEWAY_LOAD_TIMEOUT_S=1" in answer.error["message"]
        assert brain.engines_alive() == set()


async def test_one_that_ignores_sigterm_is_killed_and_the_next_one_loads(tmp_path: Path) -> None:
    brain = Brain(tmp_path, settings=ALONE)
    brain.fault("fast", ignore_sigterm=True)
    async with running(brain) as (_, client):
        assert (await client.chat("fast")).status == 200
        assert (await client.chat("balanced")).status == 200
        assert len(brain.engines_alive()) == 1


async def test_one_that_hangs_is_found_by_a_canary_and_loaded_again(tmp_path: Path) -> None:
    served = {"fast": {"preload": True, "flags": FLAGS}}
    canary = {"GATEWAY_CANARY_S": "0.5", "GATEWAY_CANARY_TIMEOUT_S": "1"}
    brain = Brain(tmp_path, served=served, settings={**ALONE, **canary})
    async with running(brain) as (_, client):
        await until(client, "fast-model", lambda e: e["state"] == "ready")
        first = brain.engines_alive()
        brain.fault("fast", hang=True)
        await until(client, "fast-model", lambda e: e["state"] != "ready")
        brain.fault("fast")
        await until(client, "fast-model", lambda e: e["state"] == "ready")
        assert brain.engines_alive() & first == set()
        assert (await client.chat("fast")).status == 200


async def test_one_that_is_slow_at_its_work_is_not_judged_by_a_canary(tmp_path: Path) -> None:
    canary = {"GATEWAY_CANARY_S": "0.2", "GATEWAY_CANARY_TIMEOUT_S": "0.3"}
    brain = Brain(tmp_path, settings={**ALONE, **canary})
    async with running(brain) as (_, client):
        assert (await client.chat("fast", fake={"prompt_s": 3.0})).status == 200
        assert (await client.tiers())["fast-model"]["restarts"] == 0
        assert len(brain.events("start")) == 1


async def test_a_canary_keeps_nothing_loaded_and_loads_nothing(tmp_path: Path) -> None:
    served = {"fast": {"ttl_s": 2, "flags": FLAGS}}
    brain = Brain(tmp_path, served=served, settings={**ALONE, "GATEWAY_CANARY_S": "0.2"})
    async with running(brain) as (_, client):
        assert (await client.chat("fast")).status == 200
        await until(client, "fast-model", lambda e: e["state"] == "stopped")
        asked = len(brain.events("request"))
        assert asked > 1, "no canary was sent"
        assert len(brain.events("start")) == 1
        assert [e["alias"] for e in brain.events("start")] == ["fast-model"]


async def test_out_of_memory_once_is_served_with_a_smaller_context_and_said(tmp_path: Path) -> None:
    brain = Brain(tmp_path, settings=ALONE, served={"fast": {"context": 8192, "flags": FLAGS}})
    brain.entries["fast"] = {"context_max": 8192}
    brain.write()
    brain.fault("fast", oom_above=5000)
    async with running(brain) as (gateway, client):
        assert (await client.chat("fast")).status == 200
        told = (await client.tiers())["fast-model"]
        assert told["context_reduced"]
        assert told["context"] <= 5000
        listed = (await client.ask("GET", "/v1/models")).json()["data"]
        here = next(one for one in listed if one["id"] == "fast")
        assert told["context"] in (here.get("max_model_len"), (here.get("meta") or {}).get("n_ctx"))
        ready = [line for line in gateway.log() if line.get("message") == "engine ready"]
        assert ready[-1]["context"] == told["context"]
        assert [e["context"] for e in brain.events("start")] == [8192, told["context"]]


async def test_out_of_memory_twice_is_a_503_that_says_so(tmp_path: Path) -> None:
    brain = Brain(tmp_path, settings=ALONE, served={"fast": {"context": 8192, "flags": FLAGS}})
    brain.entries["fast"] = {"context_max": 8192}
    brain.write()
    brain.fault("fast", oom_above=0)
    async with running(brain) as (_, client):
        answer = await client.chat("fast")
        assert answer.status == 503
        assert "out of memory" in answer.error["message"]
        assert len(brain.events("start")) == 2
        assert brain.engines_alive() == set()


async def test_what_can_never_fit_is_refused_with_needed_and_free(tmp_path: Path) -> None:
    brain = Brain(tmp_path, settings={"GATEWAY_RAM_MIB": "50"})
    async with running(brain) as (_, client):
        answer = await client.chat("fast")
        assert answer.status == 503
        assert "100" in answer.error["message"]
        assert "50" in answer.error["message"]
        assert brain.events("start") == []


async def test_nobody_goes_for_a_model_whose_file_is_not_here(tmp_path: Path) -> None:
    brain = Brain(tmp_path, settings=ALONE)
    async with running(brain) as (_, client):
        assert (await client.chat("fast")).status == 200
        file = brain.model_file("deep")
        away = file.rename(file.with_suffix(".away"))
        answer = await client.chat("deep")
        assert (answer.status, answer.error["code"]) == (503, "model_missing")
        assert "variet models pull deep-model" in answer.error["remedy"]
        assert (await client.tiers())["fast-model"]["state"] == "ready"
        away.rename(file)
        assert (await client.chat("deep")).status == 200
