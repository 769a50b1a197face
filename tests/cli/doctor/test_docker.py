import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from cli.compose import Compose
from cli.doctor.docker import check_containers, check_docker
from cli.doctor.finding import Finding
from cli.host.command import Output
from tests.cli.doctor.programs import Programs, container

INFO: dict[str, object] = {
    "ServerVersion": "28.5.2",
    "Runtimes": {"io.containerd.runc.v2": {}, "nvidia": {}},
}


def found(
    info: Mapping[str, object], compose: str = "2.40.3", cards: bool = False, error: str = ""
) -> dict[str, Finding]:
    def run(command: object) -> Output:
        assert isinstance(command, tuple)
        if command[1] == "info":
            return Output(1 if error else 0, json.dumps(info), error)
        return Output(0, compose) if compose else Output(1, error="unknown command: compose")

    return {one.name: one for one in check_docker(run, cards)}


def test_a_present_docker_is_well() -> None:
    seen = found(INFO, cards=True)
    assert {name: one.status for name, one in seen.items()} == {
        "docker": "ok",
        "compose": "ok",
        "nvidia runtime": "ok",
    }


def test_versions_that_are_too_old_are_told() -> None:
    assert found({"ServerVersion": "20.10.24"})["docker"].status == "failure"
    older = found({"ServerVersion": "27.5.1"})["docker"]
    assert (older.status, "loopback" in older.detail) == ("warning", True)
    assert found(INFO, compose="2.20.2")["compose"].status == "failure"
    assert found(INFO, compose="")["compose"].status == "failure"


def test_an_engine_that_does_not_answer_is_told_with_what_mends_it() -> None:
    denied = found({"ServerErrors": ["permission denied while trying to connect"]})["docker"]
    assert (denied.status, "group docker" in denied.remedy) == ("failure", True)
    stopped = found({}, error="Cannot connect to the Docker daemon")["docker"]
    assert "systemctl start docker" in stopped.remedy
    hung = found({}, error="docker did not end within 4 s")["docker"]
    assert "systemctl restart docker" in hung.remedy
    absent = found({}, error="docker: No such file or directory")["docker"]
    assert "Install" in absent.remedy


def test_cards_need_nvidia_s_runtime() -> None:
    without = {"ServerVersion": "28.5.2", "Runtimes": {"runc": {}}}
    assert found(without, cards=True)["nvidia runtime"].status == "failure"
    assert "nvidia runtime" not in found(without, cards=False)


def rows(*states: tuple[str, str, str]) -> str:
    return "\n".join(container(*one) for one in states)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    return Programs(tmp_path, monkeypatch)


def test_each_container_that_is_not_well_is_named(programs: Programs) -> None:
    programs.docker(
        services="postgres orchestrator logs workspace calibration redis",
        ps=rows(
            ("postgres", "running", "healthy"),
            ("orchestrator", "running", "unhealthy"),
            ("logs", "running", "starting"),
            ("workspace", "exited", ""),
            ("redis", "created", ""),
        ),
    )
    seen = {one.name: one for one in check_containers(Compose())}
    assert "1 of 6 are well: postgres" in seen["containers"].detail
    assert "make logs S=orchestrator" in seen["container orchestrator"].remedy
    assert seen["container logs"].status == seen["container redis"].status == "warning"
    assert "exit status 137" in seen["container workspace"].detail
    assert "make up" in seen["container calibration"].remedy


def test_a_stack_that_is_down_is_one_finding(programs: Programs) -> None:
    programs.docker(services="postgres orchestrator", ps="")
    (only,) = check_containers(Compose())
    assert (only.status, "make up" in only.remedy) == ("failure", True)


def test_what_docker_says_is_passed_on(programs: Programs) -> None:
    programs.docker(error="Cannot connect to the Docker daemon at unix:///var/run/docker.sock.")
    (only,) = check_containers(Compose())
    assert (only.status, "systemctl start docker" in only.remedy) == ("failure", True)
