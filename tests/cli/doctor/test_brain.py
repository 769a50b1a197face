import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.doctor import brain
from cli.doctor.brain import (
    check_engine,
    check_files,
    check_hub,
    check_main_memory,
    check_open_routes,
    wanted,
)
from cli.doctor.examination import examine
from cli.doctor.finding import Finding
from models.manifest import load_manifest, load_preset
from models.store import Store
from tests.cli.doctor.programs import CARDS, Programs, container
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripted_orchestrator import scripted_orchestrator

KEY = "Zx9-qT4_mK7wLp2aBc5dEf8g"
Examine = Callable[..., dict[str, Finding]]


async def asked(engine: ScriptedEngine, key: str) -> dict[str, Finding]:
    found = await asyncio.to_thread(
        lambda: list(check_engine("engine", _models(engine), key, None))
    )
    return {one.name: one for one in found}


def _models(engine: ScriptedEngine) -> str:
    return f"{engine.url}/models"


async def test_an_engine_answers_who_has_the_key_and_nobody_else() -> None:
    async with ScriptedEngine(key=KEY) as engine:
        seen = await asked(engine, KEY)
    assert {name: one.status for name, one in seen.items()} == {"engine": "ok", "engine key": "ok"}


async def test_an_engine_without_a_key_is_a_failure() -> None:
    async with ScriptedEngine() as engine:
        seen = await asked(engine, KEY)
    assert seen["engine"].status == "ok"
    assert seen["engine key"].status == "failure"
    assert "anyone on the network" in seen["engine key"].detail


def test_routes_that_ask_for_no_key_are_named() -> None:
    with scripted_orchestrator() as served:
        assert list(check_open_routes(served.url)) == [], "there is no such route"
        served.routes["GET /version"] = {"version": "0.33.0"}
        (found,) = check_open_routes(served.url)
    assert (found.status, "/pause" in found.detail) == ("warning", True)


async def test_an_engine_with_another_key_was_started_with_another_one() -> None:
    async with ScriptedEngine(key="other" * 8) as engine:
        seen = await asked(engine, KEY)
    assert (seen["engine"].status, "make up" in seen["engine"].remedy) == ("failure", True)


async def test_an_engine_that_is_down_names_the_command() -> None:
    async with ScriptedEngine() as engine:
        await engine.stop()
        seen = await asked(engine, KEY)
    assert (seen["engine"].status, seen["engine"].remedy) == ("failure", "Start it: make up")


def test_a_model_that_is_not_here_is_named_with_the_command_that_fetches_it(tmp_path: Path) -> None:
    manifest, preset = load_manifest(), load_preset("2x3060")
    served = manifest.get(preset.tiers["fast"].model)
    assert served is not None
    models = wanted(preset, manifest, served)
    store = Store(tmp_path)
    missing = check_files(models, store)
    assert missing.status == "failure"
    assert f"variet models pull {served.id}" in missing.remedy
    for one in models:
        path = store.path(one)
        assert path is not None
        path.parent.mkdir(parents=True)
        path.touch()
    assert check_files(models, store).status == "ok"


def test_too_little_room_for_them_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    served = load_manifest().get("gpt-oss-20b")
    assert served is not None
    monkeypatch.setattr(brain, "disk_free", lambda _: 1_000_000)
    assert check_files([served], Store(tmp_path)).remedy.startswith("Free some disk space")
    assert check_hub(tmp_path).status == "warning"
    monkeypatch.setattr(brain, "disk_free", lambda _: 10**12)
    assert check_files([served], Store(tmp_path)).remedy.startswith("variet models pull")
    assert check_hub(tmp_path).status == "ok"


def test_main_memory_is_compared_with_what_the_preset_needs() -> None:
    assert check_main_memory(16_000, 15_000).status == "ok"
    assert check_main_memory(8_000, 15_000).status == "warning"
    assert check_main_memory(0, 15_000).status == "ok", "where the system does not tell it"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Examine:
    """`host(engine, setting=value)`: what doctor finds on a brain whose containers are well."""
    programs = Programs(tmp_path, monkeypatch)
    programs.docker(
        info='{"ServerVersion": "28.5.2", "Runtimes": {"nvidia": {}}}',
        services="llamacpp",
        ps=container("llamacpp"),
    )
    programs.add("nvidia-smi", f"echo '{CARDS}'")

    def look(engine: ScriptedEngine, **changed: Any) -> dict[str, Finding]:
        values = {
            "VARIET_ROLE": "brain",
            "VARIET_PRESET": "2x3060",
            "ENGINE_TIER": "fast",
            "COMPOSE_PROFILES": "llamacpp",
            "LLAMACPP_VARIANT": "llamacpp-cuda",
            "NVIDIA_VISIBLE_DEVICES_LLM": "0,1",
            "LAN_IP": "127.0.0.1",
            "HANDS_IP": "192.0.2.20",
            "GATEWAY_PORT": engine.port,
            "GATEWAY_API_KEY": KEY,
            "MODEL_STORE": tmp_path / "models",
            **changed,
        }
        file = tmp_path / "brain.env"
        file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        file.chmod(0o600)
        monkeypatch.setenv("VARIET_ENV_FILE", str(file))
        found, role = examine(None, None)
        assert role == "brain"
        return {one.name: one for one in found}

    return look


async def test_a_brain_is_looked_at_as_a_whole(host: Examine) -> None:
    async with ScriptedEngine(key=KEY) as engine:
        seen = await asyncio.to_thread(host, engine)
    not_well = {name for name, one in seen.items() if one.status != "ok"}
    # The model is not here, and no firewall was set up for this test.
    assert {"models", "firewall"} <= not_well <= {"models", "firewall", "memory", "environment"}
    assert "variet models pull gpt-oss-20b" in seen["models"].remedy
    assert {
        *("python", "settings", "settings file", "secrets", "docker", "compose", "nvidia runtime"),
        *("gpu 0", "gpu 1", "driver for llamacpp-cuda", "gpu memory", "lan address", "exposure"),
        *(f"port {engine.port}", "containers", "engine", "engine key"),
    } <= set(seen)


async def test_the_engine_s_own_memory_is_told_from_another_program_s(host: Examine) -> None:
    """The recorded cards are nearly full: by our engine while it runs, else by someone else."""
    async with ScriptedEngine(key=KEY) as engine:
        seen = await asyncio.to_thread(host, engine, NVIDIA_VISIBLE_DEVICES_LLM="0")
        assert seen["gpu memory"].status == "failure", "the preset's model needs both cards"
        seen = await asyncio.to_thread(host, engine)
        assert (seen["gpu memory"].status, "is loaded" in seen["gpu memory"].detail) == ("ok", True)


async def test_another_file_than_the_tier_s_may_be_served(host: Examine, tmp_path: Path) -> None:
    async with ScriptedEngine(key=KEY) as engine:
        changed = {"LLAMACPP_MODEL": "mine.gguf"}
        away = await asyncio.to_thread(lambda: host(engine, **changed))
        assert (away["models"].status, "mine.gguf" in away["models"].detail) == ("failure", True)
        (tmp_path / "models").mkdir()
        (tmp_path / "models/mine.gguf").touch()
        there = await asyncio.to_thread(lambda: host(engine, **changed))
        assert (there["models"].status, "mine.gguf" in there["models"].detail) == ("ok", True)


async def test_without_a_profile_the_engine_runs_beside_docker(host: Examine) -> None:
    async with ScriptedEngine(key=KEY) as engine:
        seen = await asyncio.to_thread(host, engine, COMPOSE_PROFILES="", VARIET_PRESET="cpu")
    assert "docker" not in seen
    assert "containers" not in seen
    assert seen["engine"].status == "ok"
    assert f"port {engine.port}" not in seen, "it is the engine's, which is no container"
    assert "this system's own firewall" in seen["firewall"].remedy


async def test_an_engine_beside_docker_is_not_started_by_make(host: Examine) -> None:
    async with ScriptedEngine(key=KEY) as engine:
        await engine.stop()
        seen = await asyncio.to_thread(host, engine, COMPOSE_PROFILES="", VARIET_PRESET="cpu")
    assert "variet init prints" in seen["engine"].remedy
