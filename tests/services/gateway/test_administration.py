"""What an admin asks for, end to end: reload, pin, lock, logs, and the bounds of the queue."""

import asyncio
import signal
from pathlib import Path

import pytest

from tests.services.gateway.brain import FLAGS, Brain, running, states, stream, until

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize("by", ["signal", "route"])
async def test_a_reload_touches_only_what_changed(tmp_path: Path, by: str) -> None:
    brain = Brain(tmp_path, settings={"GATEWAY_RAM_MIB": "1000"})
    async with running(brain) as (gateway, client):
        for tier in ("fast", "balanced"):
            assert (await client.chat(tier)).status == 200
        brain.served["balanced"] = {"context": 1024, "flags": FLAGS}
        brain.served["fast"] = {"ttl_s": 900, "flags": FLAGS}
        brain.aliases = {"quick": "fast-model"}
        brain.write()
        if by == "signal":
            gateway.process.send_signal(signal.SIGHUP)
        else:
            told = (await client.ask("POST", "/reload")).json()
            assert told == {"added": [], "changed": ["balanced-model"], "removed": []}
        await until(lambda: client.chat("quick"), lambda answer: answer.status == 200)
        assert (await client.chat("balanced")).status == 200
        starts = [(e["alias"], e["context"]) for e in brain.events("start")]
        assert starts == [("fast-model", 2048), ("balanced-model", 2048), ("balanced-model", 1024)]
        assert (await client.tiers())["fast-model"]["unloads_in_s"] is not None


async def test_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    brain = Brain(tmp_path)
    async with running(brain) as (_, client):
        assert (await client.chat("fast")).status == 200
        (tmp_path / "config" / "hosts" / "here.yaml").write_text("tiers: [\n")
        answer = await client.ask("POST", "/reload")
        assert answer.status == 422
        assert "here.yaml" in answer.error["message"]
        assert (await client.chat("fast")).status == 200
        assert len(brain.events("start")) == 1


async def test_signals_in_great_number_are_one_reload_or_few(tmp_path: Path) -> None:
    brain = Brain(tmp_path)
    async with running(brain) as (gateway, client):
        for _ in range(100):
            gateway.process.send_signal(signal.SIGHUP)
            await asyncio.sleep(0.001)
        brain.aliases = {"quick": "fast-model"}
        brain.write()
        gateway.process.send_signal(signal.SIGHUP)
        await until(lambda: client.chat("quick"), lambda answer: answer.status == 200)
        reloads = [one for one in gateway.log() if one.get("message") == "configuration read again"]
        assert len(reloads) < 50


async def test_what_only_a_new_start_can_change_is_refused(tmp_path: Path) -> None:
    brain = Brain(tmp_path)
    async with running(brain) as (_, client):
        preset = tmp_path / "config" / "hosts" / "here.yaml"
        preset.write_text(preset.read_text() + "engine_memory_mib: 1024\n")
        answer = await client.ask("POST", "/reload")
        assert answer.status == 422
        assert "engine_memory_mib" in answer.error["message"]


async def test_pinned_and_locked_models_refuse_with_409_over_http(tmp_path: Path) -> None:
    brain = Brain(tmp_path, settings={"GATEWAY_RAM_MIB": "150"})
    async with running(brain) as (_, client):
        assert (await client.ask("POST", "/tiers/fast/load")).status == 200
        for command in ("pin", "lock"):
            assert (await client.ask("POST", f"/tiers/fast/{command}", {"on": True})).status == 200
            assert (await client.chat("deep")).status == 409
            assert (await client.ask("POST", "/tiers/fast/unload")).status == 409
            assert (await client.chat("fast")).status == 200
            assert (await client.ask("POST", f"/tiers/fast/{command}", {"on": False})).status == 200
        assert (await client.chat("deep")).status == 200


async def test_a_full_queue_is_429_with_retry_after(tmp_path: Path) -> None:
    brain = Brain(tmp_path, settings={"GATEWAY_QUEUE": "1"})
    async with running(brain) as (_, client):
        held = await stream(client, "fast", 1_000, 20)
        waiting = asyncio.create_task(client.chat("fast"))
        await until(client.tiers, lambda told: told["fast-model"]["queued"] == 1)
        full = await client.chat("fast")
        assert full.status == 429
        assert int(full.headers["Retry-After"]) >= 1
        held.close()
        assert (await waiting).status == 200


async def test_a_request_within_a_ttl_unload_is_served_by_a_new_start(tmp_path: Path) -> None:
    served = {"fast": {"ttl_s": 0.2, "flags": FLAGS}}
    brain = Brain(tmp_path, served=served)
    async with running(brain) as (_, client):
        for _ in range(5):
            assert (await client.chat("fast")).status == 200
            await until(lambda: states(client), lambda told: told["fast-model"] != "ready", 0)
        assert len(brain.events("start")) >= 5


async def test_the_log_of_an_engine_can_be_read(tmp_path: Path) -> None:
    brain = Brain(tmp_path)
    async with running(brain) as (_, client):
        assert (await client.chat("fast")).status == 200
        answer = await client.ask("GET", "/tiers/fast/logs")
        assert "model loaded" in answer.text
