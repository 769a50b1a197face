"""A host of either role whose programs and servers are scripted."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from models.manifest import HOSTS, MANIFEST
from tests.cli.conftest import Variet
from tests.support.scripted_brain import ADMIN_KEY, KEY, Brain, scripted_brain

Smoke = Callable[..., dict[str, Any]]
NAMES = ("VARIET_ROLE", "COMPOSE_PROFILES", "GATEWAY_API_KEY", "OPENAI_COMPAT_URL", "LAN_IP")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Puts a program of ours before all others: its name, and Python that is its body."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def make(name: str, body: str) -> Path:
        path = folder / name
        path.write_text(f"#!{sys.executable} -IS\nimport json, sys\n{body}\n")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes this host's file of settings."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "host.env"
    monkeypatch.setenv("VARIET_ENV_FILE", str(path))

    def write(**values: object) -> Path:
        path.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        return path

    return write


@pytest.fixture
def brain() -> Iterator[Brain]:
    with scripted_brain() as brain:
        yield brain


@pytest.fixture
def of_brain(brain: Brain, env: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Settings of a brain whose gateway is the scripted one. Presets are those of `tmp_path`, which
    are the repository's, and `reranks`."""
    models = tmp_path / "models"
    (models / "hosts").mkdir(parents=True)
    shutil.copy(MANIFEST, models)
    for preset in HOSTS.glob("*.yaml"):
        shutil.copy(preset, models / "hosts")
    text = (HOSTS / "4090+2070.yaml").read_text("utf-8")
    more = text.replace("profiles: [embeddings]", "profiles: [embeddings, rerank]")
    (models / "hosts/reranks.yaml").write_text(more, "utf-8")

    def write(**values: object) -> Path:
        given: dict[str, object] = {
            "VARIET_ROLE": "brain",
            "VARIET_PRESET": "cpu",
            "COMPOSE_FILE": "docker-compose.gpu.yml",
            "COMPOSE_PROFILES": "llamacpp,embeddings",
            "LAN_IP": "127.0.0.1",
            "ENGINE_TIER": "balanced",
            "GATEWAY_API_KEY": KEY,
            "GATEWAY_ADMIN_KEY": ADMIN_KEY,
            "GATEWAY_PORT": brain.port,
            "LLAMACPP_VARIANT": "llamacpp-cpu",
            "TEI_VARIANT": "tei-cpu",
            "MODELS_DIR": models,
        }
        return env(**(given | values))

    return write


@pytest.fixture
def smoke(variet: Variet, capsys: pytest.CaptureFixture[str]) -> Smoke:
    """`variet smoke --json`: its rows by name, and the exit status as `status`."""

    def run() -> dict[str, Any]:
        capsys.readouterr()
        status = variet("smoke", "--json")
        report = json.loads(capsys.readouterr().out)
        return {row["name"]: row for row in report["rows"]} | {"status": status}

    return run
