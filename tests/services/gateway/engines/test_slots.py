import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.gateway.engines import slots
from services.gateway.engines.calls import EngineCalls
from services.gateway.engines.processes import ProcessHost
from tests.services.gateway.engines.bench import Bench, Phases, spec

PROMPT = " ".join(f"word{n}" for n in range(50))


@pytest.fixture
async def host(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ProcessHost]:
    # The fake engine's log tells of no memory; what it tells is another test's matter.
    monkeypatch.setattr(slots, "plain", lambda log: True)
    host = bench.host(keep_kv=True)
    yield host
    await host.close()


async def cached(base_url: str) -> int:
    calls = EngineCalls()
    body = {"messages": [{"role": "user", "content": PROMPT}]}
    answer = await calls.post(f"{base_url}/v1/chat/completions", "sk-engines", body, 60)
    await calls.close()
    timings: dict[str, Any] = answer.json["timings"]
    return int(timings["cache_n"])


async def test_a_prompt_is_still_known_after_a_swap(bench: Bench, host: ProcessHost) -> None:
    bench.model()
    engine = host.engine(spec())
    assert await cached((await engine.start(2048, Phases())).base_url) == 0
    await engine.stop()
    assert await cached((await engine.start(2048, Phases())).base_url) == 50
    await engine.stop()


@pytest.mark.parametrize("change", ["context", "weights", "flags"])
async def test_another_start_does_not_get_it(bench: Bench, host: ProcessHost, change: str) -> None:
    model = bench.model()
    engine = host.engine(spec())
    await cached((await engine.start(2048, Phases())).base_url)
    await engine.stop()
    context = 2048
    if change == "context":
        context = 1024
    elif change == "weights":
        os.utime(model, (1, 1))
    else:
        engine = host.engine(spec(flags=("--threads", "1")))
    assert await cached((await engine.start(context, Phases())).base_url) == 0


async def test_a_cache_that_does_not_come_back_is_thrown_away(
    bench: Bench, host: ProcessHost
) -> None:
    bench.model()
    engine = host.engine(spec())
    await cached((await engine.start(2048, Phases())).base_url)
    await engine.stop()
    (kept,) = (bench.folder / "slots").iterdir()
    kept.write_text(json.dumps([]))
    os.truncate(kept, 0)
    running = await engine.start(2048, Phases())
    assert await cached(running.base_url) == 0
    assert not kept.exists()


async def test_without_the_setting_nothing_is_kept(bench: Bench) -> None:
    bench.model()
    host = bench.host()
    engine = host.engine(spec())
    await cached((await engine.start(2048, Phases())).base_url)
    await engine.stop()
    assert not (bench.folder / "slots").exists()
    assert bench.events()[0]["argv"].count("--slot-save-path") == 0
    await host.close()


def test_the_oldest_go_when_there_are_too_many(tmp_path: Path) -> None:
    for age in range(4):
        path = tmp_path / f"{age}{slots.ENDING}"
        path.write_bytes(b"x" * 10)
        os.utime(path, (1_000 - age, 1_000 - age))
    (tmp_path / "other").write_bytes(b"x" * 100)
    slots.shrink(tmp_path, 25)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.slot", "1.slot", "other"]


def test_models_with_a_recurrent_state_are_left_out() -> None:
    keys = "0.00 I llama_kv_cache:        CPU KV buffer size =     0.75 MiB"
    state = "0.00 I llama_memory_recurrent:        CPU RS buffer size =     0.01 MiB"
    assert slots.plain([keys])
    assert not slots.plain([keys, state])
    # A log that was cut off tells nothing.
    assert not slots.plain([])
