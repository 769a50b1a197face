"""Which engine answers, and what it calls the tiers."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

from contracts.errors import SettingsError
from contracts.settings import Settings
from orchestrator.agent.model import Engine
from orchestrator.engine import as_served, engine_of
from tests.support.hands import hands
from tests.support.probe_tools import Probe
from tests.support.scripted_engine import ScriptedEngine


def configured(state: Path, **settings: Any) -> Any:
    return engine_of(Settings(_env_file=None, state_dir=state, **settings))


def test_with_one_model_every_tier_is_that_model(tmp_path: Path) -> None:
    found = configured(tmp_path, openai_compat_url="http://127.0.0.1:9/v1/", model_id="small")
    assert found.url == "http://127.0.0.1:9/v1"
    assert [found.name(tier) for tier in (None, "fast", "deep")] == ["small"] * 3


def test_without_one_the_server_is_asked_for_the_tier(tmp_path: Path) -> None:
    found = configured(tmp_path, openai_compat_url="http://127.0.0.1:9/v1")
    assert [found.name(tier) for tier in ("fast", "balanced")] == ["fast", "balanced"]


def test_no_engine_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="OPENAI_COMPAT_URL") as error:
        configured(tmp_path)
    assert "make run" in error.value.remedy


def listing(*models: dict[str, Any], status: int = 200) -> httpx2.AsyncClient:
    """A client of a server that lists these."""
    answer = httpx2.Response(status, json={"data": list(models)})
    return httpx2.AsyncClient(transport=httpx2.MockTransport(lambda _: answer))


async def served(state: Path, http: httpx2.AsyncClient, **settings: Any) -> Any:
    given = Settings(
        _env_file=None, state_dir=state, openai_compat_url="http://127.0.0.1:9/v1", **settings
    )
    async with http:
        return await as_served(engine_of(given), given, http)


async def test_the_window_is_the_one_that_llama_server_was_started_with(tmp_path: Path) -> None:
    found = await served(tmp_path, listing({"id": "default", "meta": {"n_ctx": 32_768}}))
    assert found.context == 32_768


async def test_a_served_model_of_the_manifest_is_known_by_its_name(tmp_path: Path) -> None:
    found = await served(tmp_path, listing({"id": "nano", "meta": {"n_ctx": 1_024}}))
    assert found.context == 1_024
    assert "get_map" in found.tools_evaluated
    assert found.model == "default"


async def test_vllm_lists_one_model_under_several_names(tmp_path: Path) -> None:
    names = ["qwen2.5-32b-awq", "default", "fast", "balanced", "deep"]
    http = listing(*({"id": name, "max_model_len": 16_384} for name in names))
    found = await served(tmp_path, http)
    assert found.context == 16_384
    assert found.tools_evaluated is None


def behind_gateway(name: str, model: str, context: int) -> dict[str, Any]:
    """An item as the gateway lists it."""
    variet = {"engine": model, "model": model, "kind": "chat", "state": "ready"}
    return {
        "id": name,
        "max_model_len": context,
        "meta": {"n_ctx": context},
        "variet": variet,
    }


async def test_of_the_gateways_many_models_the_default_is_the_one_that_it_says(
    tmp_path: Path,
) -> None:
    items = [
        behind_gateway("qwen3-4b", "qwen3-4b", 32_768),
        behind_gateway("nano", "nano", 2_048),
        behind_gateway("fast", "qwen3-4b", 32_768),
        behind_gateway("default", "nano", 2_048),
    ]
    found = await served(tmp_path, listing(*items))
    assert found.context == 2_048
    assert "get_map" in found.tools_evaluated
    items[-1] = behind_gateway("default", "qwen3-4b", 32_768)
    found = await served(tmp_path, listing(*items))
    assert found.context == 32_768
    assert found.tools_evaluated is None


async def test_what_the_settings_say_counts_more(tmp_path: Path) -> None:
    told = {"id": "default", "meta": {"n_ctx": 32_768}}
    found = await served(tmp_path, listing(told), max_model_len=4_096)
    assert found.context == 4_096
    found = await served(tmp_path, listing(told), model_id="qwen3-4b")
    assert found.context == 8_192


@pytest.mark.parametrize("body", [{"id": 1, "meta": None}, {"id": "other", "meta": "none"}])
async def test_a_server_that_does_not_say_changes_nothing(
    tmp_path: Path, body: dict[str, Any]
) -> None:
    assert (await served(tmp_path, listing(body))).context == 8_192
    assert await served(tmp_path, listing(body, status=401)) is None


async def test_a_server_that_lists_nothing_says_nothing(tmp_path: Path) -> None:
    assert await served(tmp_path, listing()) is None
    assert await served(tmp_path, listing({})) is None


async def test_a_server_that_is_down_says_nothing(tmp_path: Path) -> None:
    assert await served(tmp_path, httpx2.AsyncClient()) is None


async def test_of_a_former_model_nothing_stays(
    tmp_path: Path, engine: ScriptedEngine, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"id": "nano", "meta": {"n_ctx": 2_048}}
    turns: list[list[dict[str, Any]]] = [[known], [], [{"id": "mine.gguf"}]]

    async def told(given: Engine, settings: Settings, _: httpx2.AsyncClient) -> Engine | None:
        async with listing(*turns[0]) as http:
            return await as_served(given, settings, http)

    monkeypatch.setattr("orchestrator.assembly.as_served", told)
    async with hands(engine.url, tmp_path, probe.server) as variet:
        orchestrator = variet.orchestrator
        for context, withheld in ((2_048, True), (2_048, True), (8_192, False)):
            await orchestrator._learn()
            assert orchestrator.parts.window.context == orchestrator.engine.context == context
            assert ("look" in orchestrator.withheld) is withheld
            await variet.ask("Hello")
            offered = {tool["function"]["name"] for tool in engine.calls[-1].body.get("tools", [])}
            assert ("look" in offered) is not withheld
            del turns[0]


@pytest.mark.parametrize(("state", "greetings"), [("stopped", 0), ("ready", 1)])
async def test_a_model_that_is_not_loaded_is_not_loaded_for_a_greeting(
    tmp_path: Path,
    engine: ScriptedEngine,
    probe: Probe,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    greetings: int,
) -> None:
    listed = {"id": "scripted", "max_model_len": 4_096, "variet": {"state": state}}

    async def told(given: Engine, settings: Settings, _: httpx2.AsyncClient) -> Engine | None:
        async with listing(listed) as http:
            return await as_served(given, settings, http)

    monkeypatch.setattr("orchestrator.assembly.as_served", told)
    async with hands(engine.url, tmp_path, probe.server) as variet:
        async with asyncio.timeout(60):
            await variet.orchestrator.ready.wait()
        assert variet.orchestrator.engine.context == 4_096
        assert len(engine.calls) == greetings
