"""What reaches Docker of a body that is allowed: an engine, with all that is fixed for its kind."""

from typing import Any

import pytest

from contracts.broker import ENGINE_IMAGES, EngineImage
from tests.services.broker.bodies import HOST, LABELS, NAME, body, changed, mount
from tests.services.broker.conftest import Door
from tests.services.broker.fake_docker import FakeDocker
from tests.services.broker.safety import breaches

NEEDED = LABELS.keys() - {"variet.fingerprint", "variet.context"}
LEAST = {"Memory": 2**30, "NanoCpus": 10**9, "PidsLimit": 64}
SAYS_NOTHING: dict[str, Any] = {
    "Binds": None,
    "Privileged": False,
    "PortBindings": {},
    "Devices": [],
    "PidMode": "",
    "OomScoreAdj": 0,
    "Ulimits": None,
    "MaskedPaths": None,
}


@pytest.mark.parametrize("kind", ENGINE_IMAGES)
async def test_an_engine_reaches_docker_as_it_was_asked_for(
    door: Door, docker: FakeDocker, kind: EngineImage
) -> None:
    asked = body(kind)
    status, told = await door.create(asked)
    assert status == 201, told
    made = docker.created
    assert docker.query == {"name": NAME}
    assert breaches(made, NAME, HOST) == []
    for key in ("Image", "Cmd", "Env", "Labels", "User", "NetworkingConfig", "Healthcheck"):
        assert made[key] == asked[key], key
    for key in ("NetworkMode", "Mounts", "CapAdd", "CapDrop", "SecurityOpt", "ReadonlyRootfs"):
        assert made["HostConfig"][key] == asked["HostConfig"][key], key
    for key in ("Memory", "NanoCpus", "PidsLimit", "Tmpfs", "LogConfig", "Init"):
        assert made["HostConfig"][key] == asked["HostConfig"][key], key
    assert made["HostConfig"]["DeviceRequests"] == [
        {"Driver": "nvidia", "Count": -1, "Capabilities": [["gpu"]]}
    ]
    assert made.get("Entrypoint") == asked.get("Entrypoint")


@pytest.mark.parametrize("kind", ENGINE_IMAGES)
async def test_what_is_fixed_is_put_in_where_it_is_left_out(
    door: Door, docker: FakeDocker, kind: EngineImage
) -> None:
    labels = {name: LABELS[name] for name in NEEDED}
    asked = {"Image": HOST.images[kind], "Labels": labels, "HostConfig": LEAST}
    status, told = await door.create(asked)
    assert status == 201, told
    made = docker.created
    assert breaches(made, NAME, HOST) == []
    assert made["User"] == ("" if kind == "vllm" else "1000:1000")
    assert made["HostConfig"]["ReadonlyRootfs"] is (kind != "vllm")
    assert made["HostConfig"]["CapDrop"] == ["ALL"]
    assert made["HostConfig"]["SecurityOpt"] == ["no-new-privileges:true"]
    assert made["HostConfig"]["NetworkMode"] == HOST.networks[kind]
    assert made["HostConfig"]["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}
    assert made.get("Entrypoint") == (["text-embeddings-router"] if kind == "tei" else None)


async def test_keys_that_say_nothing_are_left_out(door: Door, docker: FakeDocker) -> None:
    asked = body()
    asked["HostConfig"] |= SAYS_NOTHING
    asked |= {
        "Hostname": None,
        "Volumes": {},
        "Tty": False,
        "AttachStdout": True,
        "MacAddress": "",
        "Runtime": None,
    }
    assert (await door.create(asked))[0] == 201
    assert SAYS_NOTHING.keys() & docker.created["HostConfig"].keys() == {"Privileged"}
    assert {"Hostname", "Volumes", "Tty", "AttachStdout", "Runtime"}.isdisjoint(docker.created)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("HostConfig.DeviceRequests", [{"DeviceIDs": ["0", "1"], "Capabilities": [["gpu"]]}]),
        ("HostConfig.Mounts", [mount("bind", "/srv/models", "/models", True)]),
        ("HostConfig.Tmpfs", {"/tmp": "rw,noexec,size=64m,mode=1777"}),
        ("HostConfig.MemorySwap", 8 * 2**30),
        ("HostConfig.IpcMode", "private"),
        ("NetworkingConfig.EndpointsConfig", {HOST.networks["llamacpp"]: None}),
        ("NetworkingConfig", None),
        ("StopTimeout", 20),
        ("Cmd", ["--chat-template-kwargs", '{"enable_thinking": false}', "-ot", "exps=CPU"]),
    ],
)
async def test_what_an_engine_may_choose(
    door: Door, docker: FakeDocker, path: str, value: Any
) -> None:
    status, told = await door.create(changed(path, value))
    assert status == 201, told
    assert breaches(docker.created, NAME, HOST) == []


async def test_a_capability_that_is_named_twice_is_given_once(
    door: Door, docker: FakeDocker
) -> None:
    asked = body("vllm")
    asked["HostConfig"]["CapAdd"] = ["DAC_OVERRIDE", "CAP_DAC_OVERRIDE"]
    status, told = await door.create(asked)
    assert status == 201, told
    assert docker.created["HostConfig"]["CapAdd"] == ["DAC_OVERRIDE"]
