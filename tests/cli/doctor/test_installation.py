import json
import socket
import sys
from pathlib import Path

import pytest

from cli.backup import unfinished
from cli.doctor import installation
from cli.doctor.finding import failure
from contracts.settings import REPOSITORY, load_settings
from tests.cli.conftest import Variet
from tests.support.scripted_orchestrator import Scripted

HEALTH = {
    "status": "degraded",
    "checks": {
        "engine": {"status": "down", "detail": "it does not answer", "remedy": "Start it."},
        "traces": {"status": "off", "detail": "no keys are set"},
    },
}


def test_each_part_of_a_running_orchestrator_is_reported_with_its_remedy(
    orchestrator: Scripted,
) -> None:
    orchestrator.routes["GET /health"] = HEALTH
    found = {one.name: one for one in installation.check_orchestrator(None)}
    assert found["orchestrator"].status == "ok"
    assert (found["engine"].status, found["engine"].remedy) == ("failure", "Start it.")
    assert found["traces"].status == "ok"


def test_where_docker_runs_it_the_command_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VARIET_URL", "http://127.0.0.1:9")
    (found,) = installation.check_orchestrator(None, failure, "make up")
    assert (found.status, found.remedy) == ("failure", "make up")


def test_an_orchestrator_that_does_not_run_is_a_warning_with_the_command() -> None:
    (found,) = installation.check_orchestrator("http://127.0.0.1:9")
    assert found.status == "warning"
    assert "make run" in found.remedy


def test_the_report_is_json_when_asked(
    orchestrator: Scripted, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    orchestrator.routes["GET /health"] = HEALTH
    assert variet("doctor", "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["status"] == "failure"
    assert {"python", "environment", "state", "model", "engine"} <= {
        one["name"] for one in report["checks"]
    }


def test_a_restore_that_has_not_ended_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variet: Variet,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("VARIET_ENV_FILE", str(tmp_path / "my.env"))
    unfinished.begin(tmp_path / "backup.tar")
    assert variet("doctor", "--json") == 1
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)["checks"]}
    assert found["restore"]["status"] == "failure"
    assert "backup.tar" in found["restore"]["detail"]
    unfinished.end()
    variet("doctor", "--json")
    assert "restore" not in capsys.readouterr().out


def test_a_package_of_another_version_is_named(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("typer==0.0.1 \\\n    --hash=sha256:0\nnot-here==1.0 ; sys_platform == 'os2'\n")
    found = installation.check_environment(lock, tmp_path)
    assert found.status == "failure"
    assert "not 0.0.1" in found.detail
    assert "make env" in found.remedy


def test_an_environment_made_from_another_lock_is_a_warning(tmp_path: Path) -> None:
    lock = tmp_path / "a" / "requirements.lock"
    lock.parent.mkdir()
    lock.write_text("# nothing\n")
    assert installation.check_environment(lock, tmp_path).status == "warning"
    (tmp_path / "requirements.lock").write_text("# nothing\n")
    assert installation.check_environment(lock, tmp_path).status == "ok"


def test_a_port_in_use_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = load_settings(port=listener.getsockname()[1])
        assert installation.check_port(settings).status == "failure"
    assert installation.check_port(settings).status == "ok"


def test_a_full_or_closed_disk_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet" / "there"
    assert installation.check_state(folder).status == "ok"
    monkeypatch.setattr(installation, "LEAST_BYTES", 10**18)
    assert installation.check_state(folder).status == "failure"
    monkeypatch.setattr("os.access", lambda *_: False)
    assert str(tmp_path) in installation.check_state(folder).detail


def test_wrong_settings_are_a_failure_that_names_the_key(
    monkeypatch: pytest.MonkeyPatch, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PORT", "many")
    assert variet("doctor") == 1
    assert "PORT=many" in capsys.readouterr().out


def test_this_environment_is_in_sync_with_its_lock() -> None:
    found = installation.check_environment(REPOSITORY / "requirements.lock", Path(sys.prefix))
    assert found.status != "failure", found.detail
