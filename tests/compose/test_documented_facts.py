"""What images are documented to need, and would run without for a while: a lost line here shows as
lost data, as a server that nobody reaches, or as one that anybody may use. See docs/stack.md."""

from pathlib import Path

import pytest

from tests.compose import stacks
from tests.compose.rendering import Config, render

# Without these mounts the data lies in the container, and is lost with it.
DATA = {
    ("postgres", "/var/lib/postgresql/data"),
    ("qdrant", "/qdrant/storage"),
    ("qdrant", "/qdrant/snapshots"),
    ("clickhouse", "/var/lib/clickhouse"),
    ("clickhouse", "/var/log/clickhouse-server"),
    ("seaweedfs", "/data"),
    ("redis", "/data"),
    ("searxng", "/etc/searxng"),
    ("searxng", "/var/cache/searxng"),
    ("orchestrator", "/state"),
    ("vllm", "/root/.cache/vllm"),
    ("gateway", "/state"),
    ("gateway", "/slots"),
    ("gateway", "/run/broker"),
    ("broker", "/run/broker"),
}
# Set so that a server listens, where it is looked for, and to nobody without a key.
SAID = {
    "langfuse-web": {"HOSTNAME": "0.0.0.0", "CLICKHOUSE_CLUSTER_ENABLED": "false"},
    "langfuse-worker": {"HOSTNAME": "0.0.0.0", "CLICKHOUSE_CLUSTER_ENABLED": "false"},
    "searxng": {"GRANIAN_HOST": "0.0.0.0"},
    "gateway": {"GATEWAY_HOST": "0.0.0.0", "GATEWAY_PORT": "8000"},
}
KEYS = {
    "qdrant": "QDRANT__SERVICE__API_KEY",
    "seaweedfs": "AWS_SECRET_ACCESS_KEY",
    "clickhouse": "CLICKHOUSE_PASSWORD",
    "redis": "REDISCLI_AUTH",
    "langfuse-worker": "ENCRYPTION_KEY",
    "gateway": "GATEWAY_API_KEY",
}
FILES = {"qdrant": 10_000, "clickhouse": 262_144, "seaweedfs": 10_000}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder: Path = tmp_path_factory.mktemp("stacks")
    found: Config = dict(render(stacks.HANDS, stacks.hands(), folder)["services"])
    for preset in ("cpu", "4090+2070"):
        found |= render(stacks.BRAIN, stacks.brain(preset), folder)["services"]
    return found


def test_what_a_server_keeps_lies_in_a_volume(services: Config) -> None:
    mounts = {
        (name, mount["target"])
        for name, service in services.items()
        for mount in service.get("volumes", [])
        if mount["type"] == "volume" and mount.get("source")
    }
    assert mounts == DATA


def test_servers_listen_where_they_are_looked_for(services: Config) -> None:
    found = {name: services[name]["environment"] for name in SAID}
    assert {n: {key: found[n][key] for key in words} for n, words in SAID.items()} == SAID


def test_servers_that_take_a_key_have_one(services: Config) -> None:
    given = {name: services[name]["environment"].get(key, "") for name, key in KEYS.items()}
    assert {name for name, key in given.items() if "canary" in key} == KEYS.keys()
    command = services["redis"]["command"]
    assert command[command.index("--requirepass") + 1] == given["redis"]
    assert len(given["langfuse-worker"]) == 64


def test_queues_lose_nothing_when_memory_is_full(services: Config) -> None:
    command = services["redis"]["command"]
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"


def test_langfuse_is_the_same_version_twice() -> None:
    images = stacks.listed_images()
    tags = {images[name].rpartition(":")[2] for name in ("langfuse-web", "langfuse-worker")}
    assert len(tags) == 1


def test_servers_may_open_as_many_files_as_they_need(services: Config) -> None:
    limits = {name: services[name]["ulimits"]["nofile"] for name in FILES}
    assert all(
        limits[name][kind] >= least for name, least in FILES.items() for kind in limits[name]
    )


@pytest.mark.parametrize("name", ["postgres", "clickhouse"])
def test_times_are_utc(services: Config, name: str) -> None:
    assert services[name]["environment"]["TZ"] == "UTC"
