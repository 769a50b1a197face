"""Each rule notices what it is there to notice."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest

from tests.compose import stacks
from tests.compose.rendering import Config, Refused, render
from tests.compose.rules import MASQUERADE, Service, breaches

Harm = Callable[[Service, Config], object]
IMAGES = set(stacks.listed_images().values())
HARMS: dict[str, Harm] = {
    "is not pinned": lambda one, _: one.update(image="langfuse/langfuse:latest"),
    "x/y is not pinned": lambda one, _: one.update(image="registry:5000/x/y"),
    "is not in the list": lambda one, _: one.update(image="other/image:1"),
    "is published on 0.0.0.0": lambda one, _: one["ports"][0].update(host_ip="0.0.0.0"),
    "is published on None": lambda one, _: one["ports"][0].pop("host_ip"),
    "no health check": lambda one, _: one.pop("healthcheck"),
    "has no start_period": lambda one, _: one["healthcheck"].pop("start_period"),
    "asks localhost": lambda one, _: one["healthcheck"]["test"].append("http://localhost:1/"),
    "no limit of memory": lambda one, _: one["deploy"]["resources"]["limits"].pop("memory"),
    "no limit of cpus": lambda one, _: one["deploy"]["resources"]["limits"].update(cpus=0),
    "no limit of pids": lambda one, _: one["deploy"]["resources"].pop("limits"),
    "grows without end": lambda one, _: one["logging"]["options"].pop("max-file"),
    "is not restarted": lambda one, _: one.update(restart="no"),
    "has no time to stop": lambda one, _: one.pop("stop_grace_period"),
    "may gain privileges": lambda one, _: one["security_opt"].clear(),
    "keeps capabilities": lambda one, _: one.pop("cap_drop"),
    "adds the capabilities SYS_ADMIN": lambda one, _: one.update(cap_add=["SYS_ADMIN"]),
    "has privileged": lambda one, _: one.update(privileged=True),
    "has network_mode": lambda one, _: one.update(network_mode="host"),
    "holds the Docker engine": lambda one, _: one.update(
        volumes=[{"type": "bind", "source": "/var/run/docker.sock", "target": "/x"}]
    ),
    "would be made by Docker": lambda one, _: one.update(
        volumes=[{"type": "bind", "source": "/x", "target": "/x", "bind": {"create_host_path": 1}}]
    ),
    "names no network": lambda one, _: one.update(networks={"default": None}),
    "can reach the internet": lambda _, config: config["networks"]["langfuse_page"].clear(),
    "meets its host": lambda _, config: config["networks"]["traces"].pop("driver_opts"),
    "its port is not published": lambda one, _: one["networks"].pop("langfuse_page"),
    "which is not there": lambda _, config: config["services"].pop("postgres"),
    "until postgres is healthy": lambda one, _: one["depends_on"]["postgres"].update(
        condition="service_started"
    ),
    "is obsolete": lambda _, config: config.update(version="3"),
}


@pytest.fixture(scope="module")
def hands(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return render(stacks.HANDS, stacks.hands(), tmp_path_factory.mktemp("hands"))


@pytest.mark.parametrize("words", HARMS)
def test_a_broken_rule_is_found(words: str, hands: Config) -> None:
    config = deepcopy(hands)
    config["networks"].setdefault("default", {})
    HARMS[words](config["services"]["langfuse-web"], config)
    assert any(words in line for line in breaches(config, IMAGES, stacks.LOOPBACK))


def test_a_writable_root_is_found(hands: Config) -> None:
    config = deepcopy(hands)
    config["services"]["orchestrator"].pop("read_only")
    found = breaches(config, IMAGES, stacks.LOOPBACK)
    assert found == ["orchestrator: its root file system is writable"]


def test_masquerading_is_what_lets_a_published_service_out(hands: Config) -> None:
    config = deepcopy(hands)
    config["networks"]["objects_page"]["driver_opts"][MASQUERADE] = "true"
    found = breaches(config, IMAGES, stacks.LOOPBACK)
    assert found == ["seaweedfs: can reach the internet"]


def test_a_warning_of_compose_is_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "compose.yml"
    file.write_text("services: {one: {image: 'x:${NOWHERE_SET}'}}")
    with pytest.raises(Refused, match="NOWHERE_SET"):
        render(file, {"LAN_IP": stacks.LAN_IP}, tmp_path)
