"""Which engine answers, and what it calls the tiers."""

from pathlib import Path
from typing import Any

import httpx2
import pytest

from contracts.errors import SettingsError
from contracts.settings import Settings
from orchestrator.engine import as_served, engine_of


def engine(state: Path, **settings: Any) -> Any:
    return engine_of(Settings(_env_file=None, state_dir=state, **settings))


def test_with_one_model_every_tier_is_that_model(tmp_path: Path) -> None:
    found = engine(tmp_path, openai_compat_url="http://127.0.0.1:9/v1/", model_id="small")
    assert found.url == "http://127.0.0.1:9/v1"
    assert [found.name(tier) for tier in (None, "fast", "deep")] == ["small"] * 3


def test_without_one_the_server_is_asked_for_the_tier(tmp_path: Path) -> None:
    found = engine(tmp_path, openai_compat_url="http://127.0.0.1:9/v1")
    assert [found.name(tier) for tier in ("fast", "balanced")] == ["fast", "balanced"]


def test_no_engine_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="OPENAI_COMPAT_URL") as error:
        engine(tmp_path)
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


async def test_what_the_settings_say_counts_more(tmp_path: Path) -> None:
    told = {"id": "default", "meta": {"n_ctx": 32_768}}
    found = await served(tmp_path, listing(told), max_model_len=4_096)
    assert found.context == 4_096
    found = await served(tmp_path, listing(told), model_id="qwen3-4b")
    assert found.context == 8_192


@pytest.mark.parametrize("body", [{}, {"id": 1, "meta": None}, {"id": "other", "meta": "none"}])
async def test_a_server_that_does_not_say_changes_nothing(
    tmp_path: Path, body: dict[str, Any]
) -> None:
    assert (await served(tmp_path, listing(body))).context == 8_192
    assert (await served(tmp_path, listing(body, status=401))).context == 8_192


async def test_of_a_former_model_nothing_stays(tmp_path: Path) -> None:
    known = await served(tmp_path, listing({"id": "nano", "meta": {"n_ctx": 1_024}}))
    settings = Settings(_env_file=None, state_dir=tmp_path)
    unknown = await as_served(known, settings, listing({"id": "mine.gguf"}))
    assert unknown.tools_evaluated is None
    assert unknown.context == 8_192
    assert await as_served(known, settings, listing()) == known
    assert await as_served(known, settings, listing(status=503)) == known


async def test_a_server_that_is_down_changes_nothing(tmp_path: Path) -> None:
    assert (await served(tmp_path, httpx2.AsyncClient())).context == 8_192
