from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.doctor import brain
from cli.doctor.brain import beside, check_files, check_hub, check_main_memory, check_tiers
from cli.doctor.examination import examine
from cli.doctor.finding import Finding
from models.budget import budget
from models.manifest import load_manifest, load_preset
from models.store import Store
from tests.cli.doctor.programs import CARDS, Programs, container
from tests.support.scripted_brain import Brain, scripted_brain

KEY, ADMIN = "Zx9-qT4_mK7wLp2aBc5dEf8g", "Yw8-pS3_nJ6vKo1zAb4cDe7f"
Examine = Callable[..., dict[str, Finding]]


def test_a_model_that_is_not_here_is_named_with_its_tier_and_the_command(tmp_path: Path) -> None:
    manifest, preset = load_manifest(), load_preset("2x3060")
    tiers = [budget(preset, tier, manifest) for tier in preset.tiers]
    store, others = Store(tmp_path), beside(preset, manifest)

    def seen() -> dict[str, Finding]:
        return {one.name: one for one in check_tiers(tiers, others, "balanced", store)}

    missing = seen()
    assert {name: one.status for name, one in missing.items()} == {
        "model, fast": "warning",
        "model, balanced": "failure",
        "model, deep": "warning",
        "models beside": "warning",
    }
    assert "variet models pull gpt-oss-20b" in missing["model, fast"].remedy
    for one in (*(tier.entry for tier in tiers), *others):
        path = store.path(one)
        if path is not None:
            path.parent.mkdir(parents=True)
            path.touch()
    assert {one.status for one in seen().values()} == {"ok"}


def test_a_model_of_the_hub_is_not_looked_for_among_the_files(tmp_path: Path) -> None:
    manifest, preset = load_manifest(), load_preset("4090+2070")
    tiers = [budget(preset, tier, manifest) for tier in preset.tiers]
    found = check_tiers(tiers, [], "balanced", Store(tmp_path))
    assert [one.name for one in found] == ["model, fast"]


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
def gateway() -> Iterator[Brain]:
    with scripted_brain(KEY, ADMIN) as running:
        yield running


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Examine:
    """`host(gateway, setting=value)`: what doctor finds on a brain whose containers are well."""
    programs = Programs(tmp_path, monkeypatch)
    programs.docker(
        info='{"ServerVersion": "28.5.2", "Runtimes": {"nvidia": {}}}',
        services="gateway\nbroker\nllamacpp",
        ps="\n".join(map(container, ("gateway", "broker", "engines"))),
    )
    programs.add("nvidia-smi", f"echo '{CARDS}'")

    def look(gateway: Brain, **changed: Any) -> dict[str, Finding]:
        values = {
            "VARIET_ROLE": "brain",
            "VARIET_PRESET": "2x3060",
            "ENGINE_TIER": "fast",
            "COMPOSE_FILE": "docker-compose.gpu.yml",
            "COMPOSE_PROFILES": "llamacpp",
            "LLAMACPP_VARIANT": "llamacpp-cuda",
            "NVIDIA_VISIBLE_DEVICES_LLM": "0,1",
            "LAN_IP": "127.0.0.1",
            "HANDS_IP": "192.0.2.20",
            "GATEWAY_PORT": gateway.port,
            "GATEWAY_API_KEY": KEY,
            "GATEWAY_ADMIN_KEY": ADMIN,
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


def test_a_brain_is_looked_at_as_a_whole_and_loads_nothing(host: Examine, gateway: Brain) -> None:
    seen = host(gateway)
    not_well = {name for name, one in seen.items() if one.status != "ok"}
    # The models are not here, and no firewall was set up for this test.
    gone = {"model, fast", "model, balanced", "model, deep", "models beside", "firewall"}
    assert gone <= not_well <= {*gone, "memory", "environment"}
    assert "variet models pull gpt-oss-20b" in seen["model, fast"].remedy
    assert {
        *("python", "settings", "settings file", "secrets", "docker", "compose", "nvidia runtime"),
        *("gpu 0", "gpu 1", "driver for llamacpp-cuda", "gpu memory, deep", "lan address"),
        *(f"port {gateway.port}", "images", "containers", "gateway", "gateway key", "admin key"),
        *("open routes", "exposure"),
    } <= set(seen)
    assert "2 of 2 are well" in seen["containers"].detail
    assert not [path for path, _ in gateway.seen if path.endswith(("completions", "/load"))]


def test_the_engine_s_own_memory_is_told_from_another_program_s(
    host: Examine, gateway: Brain
) -> None:
    """The recorded cards are nearly full: by our engine while it runs, else by someone else."""
    seen = host(gateway, NVIDIA_VISIBLE_DEVICES_LLM="0")
    assert seen["gpu memory, fast"].status == "failure", "the preset's model needs both cards"
    seen = host(gateway)
    assert {one.status for name, one in seen.items() if name.startswith("gpu memory")} == {"ok"}
    assert "is loaded" in seen["gpu memory, deep"].detail


def test_a_preset_of_one_s_own_is_read_from_models_dir(
    host: Examine, gateway: Brain, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    (folder / "hosts").mkdir(parents=True)
    for name in ("manifest.yaml", "hosts/cpu.yaml"):
        text = (Path(brain.__file__).parents[2] / "models" / name).read_text("utf-8")
        (folder / name.replace("cpu", "mine")).write_text(text.replace("7500", "999999999"))
    seen = host(gateway, VARIET_PRESET="mine", MODELS_DIR=folder)
    assert "the preset needs 999999999" in seen["memory"].detail


def test_images_that_are_not_here_are_named(host: Examine, gateway: Brain, tmp_path: Path) -> None:
    docker = tmp_path / "programs/docker"
    told = "echo 'Error response from daemon: No such image: mine/llama:1' >&2; exit 1"
    docker.write_text(
        docker.read_text().replace("'image inspect'*) exit 0", f"'image inspect'*) {told}")
    )
    seen = host(gateway, LLAMACPP_IMAGE="mine/llama:1")
    assert (seen["images"].status, seen["images"].remedy) == ("warning", "Fetch them: make pull")
    assert "mine/llama:1" in seen["images"].detail


def test_without_a_stack_the_gateway_runs_beside_docker(host: Examine, gateway: Brain) -> None:
    changed = {"COMPOSE_PROFILES": "", "COMPOSE_FILE": "", "VARIET_PRESET": "cpu"}
    seen = host(gateway, **changed)
    assert not {"docker", "containers", "images", f"port {gateway.port}"} & seen.keys()
    assert seen["gateway"].status == "ok"
    assert "this system's own firewall" in seen["firewall"].remedy


def test_a_gateway_beside_docker_is_started_by_its_own_target(
    host: Examine, gateway: Brain
) -> None:
    changed = {"COMPOSE_PROFILES": "", "COMPOSE_FILE": "", "VARIET_PRESET": "cpu"}
    seen = host(gateway, **changed, GATEWAY_PORT=9)
    assert seen["gateway"].remedy == "Start it: make gateway"
