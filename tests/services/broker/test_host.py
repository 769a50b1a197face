"""What a host's engines may be made of, from its settings and from the broker's own mounts."""

import socket
from pathlib import Path

import pytest

from contracts.broker_settings import BrokerSettings, load_broker_settings, size_mib
from contracts.errors import SettingsError, Unavailable
from models.images import DEFAULTS, engine_image, listed_images
from services.broker.docker_engine import DockerEngine
from services.broker.host import docker_host, mounted, own_name, own_sources
from tests.services.broker.fake_docker import OURS, FakeDocker

SOURCES = {"/models": "/srv/models", "/hub": "/srv/hub"}
MOUNT_TABLE = f"""\
600 599 0:54 / / ro,relatime - overlay overlay rw
611 600 254:1 /srv/models /models ro,relatime - ext4 /dev/vda1 rw
612 600 254:1 /docker/data/containers/{OURS}/resolv.conf /etc/resolv.conf rw - ext4 /dev/vda1 rw
613 600 254:1 /docker/data/containers/{OURS}/hostname /etc/hostname rw - ext4 /dev/vda1 rw
"""


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VARIET_ENV_FILE", str(tmp_path / "none.env"))
    for name in BrokerSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def settings(**given: object) -> BrokerSettings:
    return load_broker_settings(compose_project_name="variet-brain", **given)


def test_names_follow_from_the_project() -> None:
    host = docker_host(settings(), SOURCES)
    assert host.networks["llamacpp"] == "variet-brain_llamacpp"
    assert host.volumes.slots == "variet-brain_slots"
    assert host.name_start == "variet-brain-engine-"
    assert (host.mounts.models, host.mounts.hub) == ("/srv/models", "/srv/hub")
    assert (host.user, host.memory_mib, host.cpus) == ("1000:1000", 16_384, 2)


def test_names_that_are_given_count_more() -> None:
    given = {"llamacpp_network": "a", "slots_volume": "b", "variet_uid": 7, "engine_memory": "512m"}
    host = docker_host(settings(**given), SOURCES)
    assert (host.networks["llamacpp"], host.volumes.slots) == ("a", "b")
    assert (host.user, host.memory_mib) == ("7:1000", 512)


def test_images_are_those_of_the_list() -> None:
    listed = listed_images()
    host = docker_host(settings(llamacpp_variant="llamacpp-cuda", tei_variant="tei-86"), SOURCES)
    assert host.images == {
        "llamacpp": listed["llamacpp-cuda"].name,
        "vllm": listed["vllm-cuda"].name,
        "tei": listed["tei-86"].name,
    }
    assert {DEFAULTS[kind] for kind in DEFAULTS} <= listed.keys()


def test_an_image_that_is_named_wins() -> None:
    host = docker_host(settings(tei_variant="tei-86", tei_image="own/tei:1"), SOURCES)
    assert host.images["tei"] == "own/tei:1"
    assert host.gpu


@pytest.mark.parametrize(
    ("given", "gpu"),
    [
        ({}, False),
        ({"llamacpp_variant": "llamacpp-cuda"}, True),
        ({"tei_variant": "tei-86"}, True),
        ({"vllm_variant": "vllm-cuda"}, True),
        ({"llamacpp_variant": "llamacpp-cuda", "engine_gpu": False}, False),
        ({"engine_gpu": True}, True),
    ],
)
def test_engines_get_cards_where_an_image_runs_on_cards(
    given: dict[str, object], gpu: bool
) -> None:
    assert docker_host(settings(**given), SOURCES).gpu is gpu


@pytest.mark.parametrize("variant", ["llamacpp-cudb", "tei-cpu", "qdrant", "vllm"])
def test_an_entry_that_is_no_such_engine_is_an_error(variant: str) -> None:
    with pytest.raises(SettingsError, match="LLAMACPP_VARIANT"):
        engine_image("llamacpp", variant)


def test_a_page_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "page.yaml").write_text("services: [x")
    for name in ("page.yaml", "none.yaml"):
        with pytest.raises(SettingsError, match=name):
            listed_images(tmp_path / name)


def test_two_kinds_with_one_image_do_not_start() -> None:
    with pytest.raises(SettingsError, match="same image"):
        docker_host(settings(tei_image="x", llamacpp_image="x"), SOURCES)


def test_without_a_model_store_it_does_not_start() -> None:
    with pytest.raises(SettingsError, match="/models"):
        docker_host(settings(), {"/hub": "/srv/hub"})


@pytest.mark.parametrize(
    ("size", "mib"), [("16g", 16_384), ("6144m", 6_144), ("1GB", 1_024), (str(2**30), 1_024)]
)
def test_sizes_are_read_as_compose_writes_them(size: str, mib: int) -> None:
    assert size_mib(settings(engine_memory=size).engine_memory) == mib


@pytest.mark.parametrize("size", ["x", "16 g", "1.5g", "-1g", "1k"])
def test_a_size_that_is_none_is_named(size: str) -> None:
    with pytest.raises(SettingsError, match="ENGINE_MEMORY"):
        settings(engine_memory=size)


def test_the_broker_knows_its_own_container(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(MOUNT_TABLE)
    assert own_name(table) == OURS
    table.write_text("")
    assert own_name(table) == socket.gethostname()


def test_only_folders_of_the_host_count_as_mounts() -> None:
    mounts = [
        {"Type": "bind", "Source": "/srv/models", "Destination": "/models"},
        {"Type": "tmpfs", "Destination": "/tmp"},
        {"Type": "volume", "Name": "x", "Source": "", "Destination": "/x"},
    ]
    assert mounted({"Mounts": mounts}) == {"/models": "/srv/models"}
    assert mounted({"Mounts": None}) == {}


async def test_a_container_that_docker_does_not_know_is_an_error(docker: FakeDocker) -> None:
    engine = DockerEngine(docker.socket)
    try:
        assert await own_sources(engine, OURS) == {}
        with pytest.raises(Unavailable, match="does not know nobody"):
            await own_sources(engine, "nobody")
        await docker.close()
        with pytest.raises(Unavailable, match="does not answer"):
            await own_sources(engine, OURS)
    finally:
        await engine.close()
