"""Bodies of `create` that ask for more than an engine: each is refused, with a message that names
the key, and nothing reaches Docker."""

import json
from typing import Any

import pytest

from contracts.broker import EngineImage
from tests.services.broker.bodies import HOST, LABELS, NAME, PROJECT, body, changed, mount
from tests.services.broker.conftest import Door
from tests.services.broker.fake_docker import FakeDocker

MODELS, SLOTS = body()["HostConfig"]["Mounts"]
ROOT = {"Type": "volume", "Source": "x", "Target": "/slots"}
ROOT_DRIVER = {"DriverConfig": {"Name": "local", "Options": {"o": "bind", "device": "/"}}}
# In HostConfig of an engine of llama-server.
HOST_CONFIG: list[tuple[str, Any]] = [
    ("Binds", ["/:/host"]),
    ("Binds", ["/srv/models:/models:ro"]),
    ("Mounts", [mount("bind", "/", "/host", False)]),
    ("Mounts", [mount("bind", "/", "/models", True)]),
    ("Mounts", [mount("bind", "/srv/models", "/models", False)]),
    ("Mounts", [{"Type": "bind", "Source": "/srv/models", "Target": "/models"}]),
    ("Mounts", [mount("bind", "/srv/models/", "/models", True)]),
    ("Mounts", [mount("bind", "/srv/models/../..", "/models", True)]),
    ("Mounts", [mount("bind", "/srv/models", "/etc", True)]),
    ("Mounts", [mount("bind", "/srv/hub", "/slots", False)]),
    ("Mounts", [mount("bind", "/var/run/docker.sock", "/models", True)]),
    ("Mounts", [mount("volume", "shop_data", "/slots", False)]),
    ("Mounts", [mount("volume", f"{PROJECT}_vllm_cache", "/slots", False)]),
    ("Mounts", [ROOT | {"VolumeOptions": ROOT_DRIVER}]),
    ("Mounts", [SLOTS | {"VolumeOptions": ROOT_DRIVER}]),
    ("Mounts", [SLOTS | {"VolumeOptions": {"Subpath": "../.."}}]),
    ("Mounts", [MODELS | {"BindOptions": {"Propagation": "rshared"}}]),
    ("Mounts", [MODELS | {"BindOptions": {"ReadOnlyNonRecursive": True}}]),
    ("Mounts", [{"Type": "tmpfs", "Source": "", "Target": "/models"}]),
    ("Mounts", [{"Type": "npipe", "Source": "x", "Target": "/models"}]),
    ("Mounts", [{"Type": "image", "Source": "alpine", "Target": "/models"}]),
    ("Mounts", [MODELS, MODELS]),
    ("Mounts", [MODELS | {"source": "/"}]),
    ("VolumesFrom", ["database"]),
    ("VolumeDriver", "local"),
    ("Privileged", True),
    ("Privileged", 1),
    ("privileged", True),
    ("CapAdd", ["SYS_ADMIN"]),
    ("CapAdd", ["ALL"]),
    ("CapAdd", ["DAC_OVERRIDE"]),
    ("CapAdd", "ALL"),
    ("CapDrop", ["NET_RAW"]),
    ("PidMode", "host"),
    ("PidMode", "container:database"),
    ("IpcMode", "host"),
    ("IpcMode", "shareable"),
    ("UTSMode", "host"),
    ("UsernsMode", "host"),
    ("CgroupnsMode", "host"),
    ("Cgroup", "container:database"),
    ("CgroupParent", "/system.slice"),
    ("NetworkMode", "host"),
    ("NetworkMode", "bridge"),
    ("NetworkMode", "default"),
    ("NetworkMode", "none"),
    ("NetworkMode", "container:database"),
    ("NetworkMode", HOST.networks["vllm"]),
    ("NetworkMode", "variet-brain_llamacpp "),
    ("Devices", [{"PathOnHost": "/dev/sda", "PathInContainer": "/dev/sda"}]),
    ("DeviceCgroupRules", ["a *:* rwm"]),
    ("DeviceRequests", [{"Driver": "cdi", "DeviceIDs": ["all"], "Capabilities": [["gpu"]]}]),
    ("DeviceRequests", [{"Driver": "nvidia", "Count": -1, "Capabilities": [["gpu", "graphics"]]}]),
    ("DeviceRequests", [{"Driver": "nvidia", "Count": -1, "Capabilities": [["utility"]]}]),
    ("DeviceRequests", [{"Driver": "nvidia", "Capabilities": [["gpu"]], "Options": {"a": "b"}}]),
    ("DeviceRequests", [{"DeviceIDs": ["0/../all"], "Capabilities": [["gpu"]]}]),
    ("SecurityOpt", ["seccomp=unconfined"]),
    ("SecurityOpt", ["no-new-privileges:true", "apparmor=unconfined"]),
    ("SecurityOpt", ["no-new-privileges:false"]),
    ("SecurityOpt", ["label=disable"]),
    ("Runtime", "nvidia"),
    ("Runtime", "runc"),
    ("Sysctls", {"net.ipv4.ip_forward": "1"}),
    ("OomKillDisable", True),
    ("OomScoreAdj", -1000),
    ("PortBindings", {"8080/tcp": [{"HostPort": "80"}]}),
    ("PublishAllPorts", True),
    ("ExtraHosts", ["hub:198.51.100.1"]),
    ("Links", ["database:db"]),
    ("Dns", ["198.51.100.1"]),
    ("DnsSearch", ["x"]),
    ("GroupAdd", ["docker"]),
    ("ReadonlyRootfs", False),
    ("Tmpfs", {"/run": ""}),
    ("Tmpfs", {"/tmp": "exec"}),
    ("Tmpfs", {"/tmp": "size=1g,suid"}),
    ("Memory", 0),
    ("Memory", None),
    ("Memory", -1),
    ("Memory", 16 * 2**30 + 1),
    ("Memory", 2.0**30),
    ("Memory", "1073741824"),
    ("Memory", True),
    ("MemorySwap", -1),
    ("MemorySwap", 2**50),
    ("MemorySwap", 2**30),
    ("MemorySwappiness", 0),
    ("NanoCpus", 0),
    ("NanoCpus", 2 * 10**9 + 1),
    ("CpuQuota", 100_000),
    ("CpusetCpus", "0"),
    ("CpuRealtimeRuntime", 950_000),
    ("PidsLimit", -1),
    ("PidsLimit", 0),
    ("PidsLimit", 513),
    ("ShmSize", 2**40),
    ("Ulimits", [{"Name": "memlock", "Soft": -1, "Hard": -1}]),
    ("RestartPolicy", {"Name": "always"}),
    ("RestartPolicy", {"Name": "no", "MaximumRetryCount": 5}),
    ("AutoRemove", True),
    ("LogConfig", {"Type": "syslog", "Config": {}}),
    ("LogConfig", {"Type": "json-file", "Config": {"labels": "x"}}),
    ("LogConfig", {"Type": "json-file", "Config": {"max-size": "900g"}}),
    ("LogConfig", {"Type": "none"}),
    ("MaskedPaths", []),
    ("ReadonlyPaths", []),
    ("ContainerIDFile", "/etc/x"),
    ("StorageOpt", {"size": "1t"}),
    ("Annotations", {"a": "b"}),
    ("Isolation", "process"),
    ("NewKey", None),
    ("", {}),
]
TOP: list[tuple[str, Any]] = [
    ("Image", "alpine"),
    ("Image", "ghcr.io/ggml-org/llama.cpp"),
    ("Image", f"{HOST.images['llamacpp']}@sha256:{'0' * 64}"),
    ("Image", f"{HOST.images['llamacpp']} "),
    ("Image", f"docker.io/{HOST.images['vllm']}"),
    ("Image", HOST.images["vllm"]),
    ("Image", None),
    ("Entrypoint", ["sh", "-c"]),
    ("Entrypoint", ["/app/llama-server"]),
    ("Entrypoint", "sh"),
    ("Entrypoint", [""]),
    ("User", "root"),
    ("User", "0:0"),
    ("User", "1000:0"),
    ("User", "1000"),
    ("Hostname", "gateway"),
    ("Domainname", "lan"),
    ("MacAddress", "02:42:ac:11:00:02"),
    ("ExposedPorts", {"80/tcp": {}}),
    ("Volumes", {"/x": {}}),
    ("WorkingDir", "/"),
    ("NetworkDisabled", True),
    ("Shell", ["sh"]),
    ("OnBuild", ["RUN x"]),
    ("Tty", True),
    ("OpenStdin", True),
    ("AttachStdin", True),
    ("StopSignal", "SIGSTOP"),
    ("StopTimeout", 86_400),
    ("Healthcheck", {"Test": ["CMD-SHELL", "x"]}),
    ("Healthcheck", {"Test": ["CMD", "curl", "http://198.51.100.1"]}),
    ("Healthcheck", {"Test": []}),
    ("Labels", {}),
    ("Labels", LABELS | {"com.docker.compose.project": "shop"}),
    ("Labels", LABELS | {"com.docker.compose.service": "gateway"}),
    ("Labels", LABELS | {"com.docker.compose.oneoff": "True"}),
    ("Labels", LABELS | {"com.docker.compose.project.working_dir": "/"}),
    ("Labels", LABELS | {"traefik.enable": "true"}),
    ("Labels", LABELS | {"variet.engine": ""}),
    ("Labels", LABELS | {"variet.context": "8192\n"}),
    # By these `make down` finds it.
    *(
        ("Labels", {name: LABELS[name] for name in LABELS if name != missing})
        for missing in LABELS
        if missing not in ("variet.fingerprint", "variet.context")
    ),
    ("Labels", ["com.docker.compose.project=variet-brain"]),
    ("Env", ["LD_PRELOAD=/models/x.so"]),
    ("Env", ["PATH=/models"]),
    ("Env", ["CUDA_INJECTION64_PATH=/models/x.so"]),
    ("Env", ["NVIDIA_VISIBLE_DEVICES=all"]),
    ("Env", ["NVIDIA_DRIVER_CAPABILITIES=all"]),
    ("Env", ["LLAMA_ARG_HF_REPO=x/y"]),
    ("Env", ["LLAMA_ARG_API_KEY_FILE=/etc/shadow"]),
    ("Env", ["llama_api_key=x"]),
    ("Env", ["LLAMA_API_KEY"]),
    ("Env", ["=x"]),
    ("Env", ["LLAMA_API_KEY=a", "LLAMA_API_KEY=b"]),
    ("Env", ["LLAMA_API_KEY=a\0LD_PRELOAD=x"]),
    ("Env", ["LLAMA_API_KEY\0=a"]),
    ("Env", {"LLAMA_API_KEY": "a"}),
    ("Env", [f"LLAMA_API_KEY={'x' * 9_000}"]),
    ("Cmd", "--model /models/x"),
    ("Cmd", ["--alias", "a\0b"]),
    ("Cmd", ["x" * 9_000]),
    ("Cmd", ["x"] * 300),
    ("Cmd", [None]),
    ("NetworkingConfig", {"EndpointsConfig": {"host": {}}}),
    ("NetworkingConfig", {"EndpointsConfig": {"bridge": None}}),
    ("NetworkingConfig.EndpointsConfig", {HOST.networks["llamacpp"]: {}, "shop_default": {}}),
    ("NetworkingConfig.EndpointsConfig", {HOST.networks["llamacpp"]: {"Aliases": ["gateway"]}}),
    ("NetworkingConfig.EndpointsConfig", {HOST.networks["llamacpp"]: {"Links": ["database"]}}),
    (
        "NetworkingConfig.EndpointsConfig",
        {HOST.networks["llamacpp"]: {"IPAMConfig": {"IPv4Address": "172.18.0.2"}}},
    ),
    (
        "NetworkingConfig.EndpointsConfig",
        {HOST.networks["llamacpp"]: {"DriverOpts": {"com.docker.network.endpoint.sysctls": "x"}}},
    ),
    ("hostConfig", {"Privileged": True}),
    ("HostConfig", None),
    ("HostConfig", []),
    ("Runtime", "nvidia"),
    ("Platform", "linux/arm64"),
]
OTHERS: list[tuple[EngineImage, str, Any]] = [
    ("vllm", "HostConfig.CapAdd", ["DAC_OVERRIDE", "SYS_PTRACE"]),
    ("vllm", "HostConfig.ShmSize", 9 * 2**30),
    ("vllm", "HostConfig.PidsLimit", 5_000),
    ("vllm", "User", "1000:1000"),
    ("vllm", "Entrypoint", ["bash"]),
    ("vllm", "HostConfig.Mounts", [mount("bind", "/srv/models", "/models", False)]),
    ("vllm", "HostConfig.Mounts", [mount("bind", "/srv/hub/hub", "/root/.cache/vllm", False)]),
    ("vllm", "Env", ["VLLM_LOGGING_CONFIG_PATH=/root/.cache/huggingface/x.json"]),
    ("vllm", "Env", ["VLLM_PLUGINS=x"]),
    ("vllm", "Env", ["VLLM_NCCL_SO_PATH=/root/.cache/huggingface/x.so"]),
    ("vllm", "Env", ["PYTHONPATH=/root/.cache/huggingface"]),
    ("tei", "Entrypoint", ["text-embeddings-router", "-x"]),
    ("tei", "Entrypoint", ["bash"]),
    # Whoever writes the hub could put a link to / in the place of that folder.
    ("tei", "HostConfig.Mounts", [mount("bind", "/srv/hub/hub", "/data", False)]),
    ("tei", "HostConfig.Mounts", [mount("bind", "/srv/models", "/data", False)]),
    ("tei", "Env", ["UDS_PATH=/data/x"]),
    ("tei", "Env", ["OTLP_ENDPOINT=http://198.51.100.1"]),
]
NAMES = [
    "",
    "engine-nano-0a1b",
    f"{PROJECT}-gateway-1",
    f"{PROJECT}-engine-nano",
    f"{PROJECT}-engine--0a1b",
    f"{PROJECT}-engine-nano-0A1B",
    f"shop-{PROJECT}-engine-nano-0a1b",
    f"{PROJECT}-engine-nano-0a1b\n",
    f"{PROJECT}-engine-../x-0a1b",
    f"{PROJECT}-engine-{'x' * 99}-0a1b",
]
GOOD = json.dumps(body())
TEXTS = {
    "a key twice": GOOD.replace('{"Image"', '{"Image": "alpine", "Image"', 1),
    "a key twice, deep": GOOD.replace(
        '"Mounts"', '"Privileged": true, "Privileged": false, "Mounts"'
    ),
    "a key twice, escaped": GOOD.replace('{"Image"', '{"\\u0049mage": "alpine", "Image"', 1),
    "a number that is none": GOOD.replace('"Init": true', '"Memory": NaN'),
    "no end": GOOD[:-1],
    "two values": f"{GOOD} {GOOD}",
    "a list": f"[{GOOD}]",
    "null": "null",
    "a text": '"x"',
    "deep": "[" * 100_000,
    "half a character": GOOD.replace("nano.gguf", "nano\\ud800.gguf"),
    "a long number": GOOD.replace('"Init": true', f'"OomScoreAdj": {"9" * 5_000}'),
    "a byte order mark": f"\ufeff{GOOD}",
    "a NUL in a key": GOOD.replace('"Init"', '"Init\\u0000"'),
    "a comment": GOOD.replace("{", "{ // x\n", 1),
}


@pytest.mark.parametrize(("key", "value"), HOST_CONFIG)
async def test_a_container_gets_nothing_of_the_host(
    door: Door, docker: FakeDocker, key: str, value: Any
) -> None:
    asked = body()
    asked["HostConfig"][key] = value
    await refused(door, docker, asked, key)


@pytest.mark.parametrize(("path", "value"), TOP)
async def test_a_container_is_an_engine_and_nothing_else(
    door: Door, docker: FakeDocker, path: str, value: Any
) -> None:
    await refused(door, docker, changed(path, value))


@pytest.mark.parametrize(("kind", "path", "value"), OTHERS)
async def test_each_kind_of_engine_has_its_own_bounds(
    door: Door, docker: FakeDocker, kind: EngineImage, path: str, value: Any
) -> None:
    await refused(door, docker, changed(path, value, kind))


@pytest.mark.parametrize("name", NAMES)
async def test_an_engine_is_named_as_one(door: Door, docker: FakeDocker, name: str) -> None:
    status, told = await door.create(body(), name)
    assert status == 403
    assert "name" in told["message"]
    assert docker.reached == []


@pytest.mark.parametrize("text", TEXTS)
async def test_a_body_that_may_be_read_in_two_ways_is_refused(
    door: Door, docker: FakeDocker, text: str
) -> None:
    status, told = await door.ask(
        "POST",
        f"/v1.45/containers/create?name={NAME}",
        data=TEXTS[text].encode(),
        headers={"Content-Type": "application/json"},
    )
    assert status in (400, 403), told
    assert docker.reached == []


async def test_a_body_of_other_bytes_than_unicode_is_refused(
    door: Door, docker: FakeDocker
) -> None:
    for data in (GOOD.encode("utf-16"), b"\xff" + GOOD.encode(), GOOD.encode() + b"\0"):
        status, _ = await door.ask(
            "POST",
            f"/v1.45/containers/create?name={NAME}",
            data=data,
            headers={"Content-Type": "application/json"},
        )
        assert status == 400
    assert docker.reached == []


async def refused(door: Door, docker: FakeDocker, asked: Any, key: str = "") -> None:
    status, told = await door.create(asked)
    assert status == 403, told
    assert key in told["message"]
    assert docker.reached == []
