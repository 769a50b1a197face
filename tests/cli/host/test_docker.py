import json

import pytest

from cli.host.command import Output
from cli.host.docker import docker, version

INFO = {"ServerVersion": "28.5.2+dfsg4", "Runtimes": {"runc": {}, "nvidia": {}}}


def test_versions_and_the_runtime_for_cards_are_told() -> None:
    found = docker(lambda c: Output(0, json.dumps(INFO) if c[1] == "info" else "v2.40.3-3\n"))
    assert (found.engine, found.compose, found.nvidia) == ("28.5.2+dfsg4", "2.40.3-3", True)
    assert found.engine_fits
    assert found.compose_fits


def test_cards_may_come_by_the_container_device_interface() -> None:
    info = {"ServerVersion": "29.0.1", "DiscoveredDevices": [{"ID": "nvidia.com/gpu=0"}]}
    assert docker(lambda c: Output(0, json.dumps(info) if c[1] == "info" else "5.5.0")).nvidia


def test_an_engine_that_refuses_says_why() -> None:
    info = {"ServerErrors": ["permission denied while trying to connect"], "ServerVersion": ""}
    found = docker(lambda c: Output(0, json.dumps(info) if c[1] == "info" else "5.5.0"))
    assert found.engine is None
    assert not found.engine_fits
    assert "permission denied" in found.problem


def test_without_docker_both_are_missing() -> None:
    found = docker(lambda c: Output(None, error="docker: No such file or directory"))
    assert (found.engine, found.compose) == (None, None)
    assert "No such file" in found.problem
    assert found.compose_problem


def test_an_engine_that_is_down_is_said_in_one_line() -> None:
    error = (
        "Cannot connect to the Docker daemon at unix:///var/run/docker.sock."
        " Is the docker daemon running?"
    )
    found = docker(lambda c: Output(1, error=error))
    assert found.problem == "Cannot connect to the Docker daemon at unix:///var/run/docker.sock"


@pytest.mark.parametrize(
    "error",
    [
        "unknown flag: --short\n\nUsage:  docker [OPTIONS] COMMAND [ARG...]",
        "docker: 'compose' is not a docker command.\nSee 'docker --help'",
    ],
)
def test_a_compose_plugin_that_is_missing_is_said_in_words(error: str) -> None:
    found = docker(
        lambda c: Output(0, json.dumps(INFO)) if c[1] == "info" else Output(1, "", error)
    )
    assert found.compose_problem == "the plug-in is not installed"


def test_old_versions_do_not_fit() -> None:
    info = json.dumps({"ServerVersion": "24.0.7"})
    found = docker(lambda c: Output(0, info if c[1] == "info" else "2.23.3"))
    assert not found.engine_fits
    assert not found.compose_fits


@pytest.mark.parametrize(
    ("text", "wanted"), [("v2.24.0-desktop.1", (2, 24)), ("5.5.0", (5, 5)), ("", (0, 0))]
)
def test_versions_are_compared_by_major_and_minor(text: str, wanted: tuple[int, int]) -> None:
    assert version(text) == wanted
