"""What must hold of a body that Docker gets, whatever was asked: written apart from the broker's
own rules. `breaches` gives a line for each thing that does not hold."""

import re
from collections.abc import Iterator
from typing import Any

from contracts.broker import DockerHost, EngineImage

TOP = {
    *("Image", "Cmd", "Env", "Labels", "User", "Healthcheck", "HostConfig", "NetworkingConfig"),
    *("Entrypoint", "StopSignal", "StopTimeout"),
}
HOST = {
    *("NetworkMode", "Mounts", "CapDrop", "CapAdd", "SecurityOpt", "ReadonlyRootfs", "Tmpfs"),
    *("LogConfig", "RestartPolicy", "Privileged", "Memory", "NanoCpus", "PidsLimit", "MemorySwap"),
    *("ShmSize", "DeviceRequests", "Init", "IpcMode", "CgroupnsMode"),
}
DANGEROUS = re.compile(r"LD_|PATH$|PYTHON|NVIDIA_|LLAMA_ARG|INJECTION|_SO_|PLUGIN|CONFIG", re.I)


def breaches(made: dict[str, Any], name: str, host: DockerHost) -> list[str]:
    return [*_engine(made, name, host), *_container(made["HostConfig"], made["Image"], host)]


def _engine(made: dict[str, Any], name: str, host: DockerHost) -> Iterator[str]:
    kind = _kind(made["Image"], host)
    if made.keys() - TOP:
        yield f"more keys: {made.keys() - TOP}"
    if not re.fullmatch(rf"{host.project}-engine-[a-z0-9-]+-[0-9a-f]{{4}}", name):
        yield f"name {name}"
    labels = made["Labels"]
    if labels.get("com.docker.compose.project") != host.project or not labels.get("variet.engine"):
        yield f"labels {labels}"
    if any(not key.startswith(("variet.", "com.docker.compose.")) for key in labels):
        yield f"labels {labels}"
    names = [entry.partition("=")[0] for entry in made["Env"]]
    if len(set(names)) < len(names) or any("\0" in e or "=" not in e for e in made["Env"]):
        yield f"environment {names}"
    if bad := [one for one in names if DANGEROUS.search(one)]:
        yield f"environment {bad}"
    if made["User"] != ("" if kind == "vllm" else host.user):
        yield f"user {made['User']}"
    if made.get("Entrypoint") != (["text-embeddings-router"] if kind == "tei" else None):
        yield f"entrypoint {made.get('Entrypoint')}"
    if made["Healthcheck"] != {"Test": ["NONE"]}:
        yield "a health check"
    if made["NetworkingConfig"] != {"EndpointsConfig": {host.networks[kind]: {}}}:
        yield f"networks {made['NetworkingConfig']}"
    if any("\0" in word for word in made["Cmd"]) or len(made["Cmd"]) > 256:
        yield "words"
    if any(word.startswith(("/etc", "/proc", "/var", "/host")) for word in made["Cmd"]):
        yield f"paths {made['Cmd']}"


def _container(made: dict[str, Any], image: str, host: DockerHost) -> Iterator[str]:
    kind = _kind(image, host)
    if made.keys() - HOST:
        yield f"more keys of HostConfig: {made.keys() - HOST}"
    if made["NetworkMode"] != host.networks[kind]:
        yield f"network {made['NetworkMode']}"
    if made["Privileged"] is not False or made["CapDrop"] != ["ALL"]:
        yield "privileges"
    if made["CapAdd"] not in ([], ["DAC_OVERRIDE"] if kind == "vllm" else []):
        yield f"capabilities {made['CapAdd']}"
    if made["SecurityOpt"] != ["no-new-privileges:true"]:
        yield f"security {made['SecurityOpt']}"
    if made["ReadonlyRootfs"] is not True and kind != "vllm":
        yield "a root that can be written"
    if made["Tmpfs"].keys() - {"/tmp"} or "exec" in str(made["Tmpfs"]).replace("noexec", ""):
        yield f"tmpfs {made['Tmpfs']}"
    if made["RestartPolicy"] != {"Name": "no"}:
        yield "it restarts"
    for mount in made["Mounts"]:
        if mount.keys() != {"Type", "Source", "Target", "ReadOnly"}:
            yield f"keys of {mount}"
        if tuple(mount.values()) not in _mounts(kind, host):
            yield f"mount {mount}"
    targets = [mount["Target"] for mount in made["Mounts"]]
    if len(set(targets)) < len(targets):
        yield f"mounts {targets}"
    limits = {"Memory": host.memory_mib * 2**20, "NanoCpus": host.cpus * 1e9, "PidsLimit": 4096}
    for key, most in limits.items():
        if type(made.get(key)) is not int or not 0 < made[key] <= most:
            yield f"{key} {made.get(key)}"
    if not 0 <= made.get("ShmSize", 0) <= 8 * 2**30:
        yield f"ShmSize {made['ShmSize']}"
    if not made["Memory"] <= made.get("MemorySwap", made["Memory"]) <= 2 * made["Memory"]:
        yield f"MemorySwap {made['MemorySwap']}"
    for request in made.get("DeviceRequests", []):
        if not host.gpu or request["Capabilities"] != [["gpu"]] or request["Driver"] != "nvidia":
            yield f"devices {request}"
        if request.keys() - {"Driver", "Capabilities", "Count", "DeviceIDs"}:
            yield f"devices {request}"
    log = made["LogConfig"]
    if log["Type"] not in ("json-file", "local") or log["Config"].keys() != {
        "max-size",
        "max-file",
    }:
        yield f"log {log}"
    if {made.get("IpcMode", "private"), made.get("CgroupnsMode", "private")} != {"private"}:
        yield "namespaces"


def _kind(image: str, host: DockerHost) -> EngineImage:
    (kind,) = [kind for kind, name in host.images.items() if name == image]
    return kind


def _mounts(kind: EngineImage, host: DockerHost) -> set[tuple[str, str | None, str, bool]]:
    models, hub = host.mounts.models, host.mounts.hub
    allowed: dict[str, set[tuple[str, str | None, str, bool]]] = {
        "llamacpp": {
            ("bind", models, "/models", True),
            ("volume", host.volumes.slots, "/slots", False),
        },
        "vllm": {
            ("bind", models, "/models", True),
            ("bind", hub, "/root/.cache/huggingface", False),
            ("volume", host.volumes.vllm_cache, "/root/.cache/vllm", False),
        },
        "tei": {("bind", hub, "/data", False)},
    }
    return allowed[kind]
