"""The commands and the orchestrator before the gateway itself, whose engines are fake ones."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from cli.stack import Stack
from contracts.settings import load_settings
from tests.cli.conftest import Variet
from tests.services.gateway.brain import ADMIN, TIERS, USER, Brain, running, until
from tests.support.hands import hands

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def brain(tmp_path: Path) -> Brain:
    """One model fits at a time; a load takes so long that it is seen."""
    made = Brain(tmp_path, settings={"GATEWAY_RAM_MIB": "150"})
    for tier in ("fast", "deep"):
        made.fault(tier, load_s=1.0)
    return made


async def test_the_commands_do_what_they_say(
    brain: Brain,
    variet: Variet,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def said(*words: str) -> tuple[int, str]:
        status = await asyncio.to_thread(variet, *words)
        told = capsys.readouterr()
        return status, told.out + told.err

    async def state(name: str) -> Any:
        _, text = await said("tiers", "--json")
        (engine,) = (e for e in json.loads(text)["engines"] if e["name"] == name)
        return engine["state"], engine["pinned"]

    async with running(brain) as (gateway, _):
        monkeypatch.setenv("OPENAI_COMPAT_URL", f"{gateway.url}/v1")
        monkeypatch.setenv("GATEWAY_ADMIN_KEY", ADMIN)
        monkeypatch.setenv("VARIET_ROLE", "hands")
        status, text = await said("swap", "deep")
        assert (status, "deep (deep-model) is ready after" in text) == (0, True), text
        status, text = await said("swap", "fast")
        steps = [line.split()[0] for line in text.splitlines()[:-1]]
        assert (status, "start" in steps or "ready" in steps) == (0, True), text
        assert await state("deep-model") == ("stopped", False)
        assert (await said("tiers", "pin", "fast"))[0] == 0
        assert await state("fast-model") == ("ready", True)
        status, text = await said("tiers", "unload", "fast")
        assert (status, "pinned" in text) == (1, True), text
        assert (await said("tiers", "unpin", "fast"))[0] == 0
        assert "fast-model" in (await said("tiers"))[1]
        assert (await said("tiers", "logs", "fast"))[0] == 0
        assert (await said("tiers", "unload", "fast"))[0] == 0
        assert (await said("tiers", "reload"))[1] == "Read again: nothing has changed.\n"
        status, text = await said("swap", "nothing")
        assert (status, "There is no tier" in text) == (1, True), text


async def test_a_run_shows_the_load_that_it_waits_for(brain: Brain, tmp_path: Path) -> None:
    async with running(brain) as (gateway, client):
        given = {"key": USER, "model": "fast", "tiers": {"deep": "deep"}, "context": 2_048}
        url = f"{gateway.url}/v1"
        async with hands(url, tmp_path / "state", engine=given) as h:
            await client.ask("POST", "/tiers/fast/load")
            events = await h.events("Hello?", tier="deep")
        log = gateway.log()
    response = events[-1]["data"]["response"]
    assert (response["status"], bool(response["answer"])) == ("completed", True)
    stages = [e["data"] for e in events if e["type"] == "stage" and e["data"]["name"] == "engine"]
    assert any("loading deep-model" in str(stage["detail"]) for stage in stages), stages
    assert [stage["status"] for stage in stages][-1] == "finished"
    assert f"{response['run_id']}.1" in json.dumps(log), "the gateway's log knows the run's call"


async def test_a_stack_before_the_gateway_leaves_its_tiers_apart(
    brain: Brain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODEL_ID", raising=False)
    brain.entries = {tier: {"context": 16_384} for tier in TIERS}
    brain.write()
    async with running(brain) as (gateway, client):
        monkeypatch.setenv("OPENAI_COMPAT_URL", f"{gateway.url}/v1")
        monkeypatch.setenv("OPENAI_COMPAT_KEY", USER)
        monkeypatch.setenv("STATE_DIR", str(tmp_path / "state"))
        stack = Stack(load_settings(port=0))
        try:
            served = await stack.start()
            asked = {"message": "Hello?", "tier": "deep"}
            async with client.session.post(f"{served.url}/chat", json=asked) as answer:
                run = (await answer.json())["run_id"]
        finally:
            await stack.stop()

        async def lines() -> list[dict[str, Any]]:
            return [one for one in gateway.log() if one.get("request_id") == f"{run}.1"]

        (line,) = await until(lines, bool)
    assert (line["model"], line["engine"]) == ("deep", "deep-model")
