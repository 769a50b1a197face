"""Bodies of `create` as the gateway sends them, one for each kind of engine, and their host."""

from copy import deepcopy
from typing import Any

from contracts.broker import DockerHost, EngineImage, EngineVolumes, HostMounts

PROJECT = "variet-brain"
NAME = f"{PROJECT}-engine-nano-0a1b"
HOST = DockerHost(
    project=PROJECT,
    images={
        "llamacpp": "ghcr.io/ggml-org/llama.cpp:server-b11347",
        "vllm": "vllm/vllm-openai:v0.30.0",
        "tei": "ghcr.io/huggingface/text-embeddings-inference:cpu-1.9.3",
    },
    gpu=True,
    networks={kind: f"{PROJECT}_{kind}" for kind in ("llamacpp", "vllm", "tei")},
    mounts=HostMounts(models="/srv/models", hub="/srv/hub"),
    volumes=EngineVolumes(vllm_cache=f"{PROJECT}_vllm_cache", slots=f"{PROJECT}_slots"),
    user="1000:1000",
    memory_mib=16_384,
    cpus=2,
)
LABELS = {
    "com.docker.compose.project": PROJECT,
    "com.docker.compose.service": "engines",
    "com.docker.compose.oneoff": "False",
    "com.docker.compose.container-number": "1",
    "com.docker.compose.config-hash": "variet",
    "variet.engine": "nano",
    "variet.fingerprint": "0123456789abcdef",
    "variet.context": "8192",
}
COMMANDS: dict[EngineImage, list[str]] = {
    "llamacpp": [
        "--model",
        "/models/nano.gguf",
        "--alias",
        "nano",
        "--ctx-size",
        "8192",
        "--jinja",
    ],
    "vllm": ["Qwen/Qwen3-0.6B", "--served-model-name", "qwen", "--max-model-len", "8192"],
    "tei": ["--json-output"],
}
ENVIRONMENT: dict[EngineImage, list[str]] = {
    "llamacpp": ["LLAMA_API_KEY=secret", "HOME=/tmp", "CUDA_VISIBLE_DEVICES=0"],
    "vllm": ["VLLM_API_KEY=secret", "HF_TOKEN=token", "DO_NOT_TRACK=1"],
    "tei": [
        "API_KEY=secret",
        "PORT=8080",
        "HUGGINGFACE_HUB_CACHE=/data/hub",
        "MODEL_ID=BAAI/bge-m3",
    ],
}


def mount(kind: str, source: str, target: str, read_only: bool) -> dict[str, Any]:
    return {"Type": kind, "Source": source, "Target": target, "ReadOnly": read_only}


MOUNTS: dict[EngineImage, list[dict[str, Any]]] = {
    "llamacpp": [
        mount("bind", "/srv/models", "/models", True),
        mount("volume", f"{PROJECT}_slots", "/slots", False),
    ],
    "vllm": [
        mount("bind", "/srv/hub", "/root/.cache/huggingface", False),
        mount("volume", f"{PROJECT}_vllm_cache", "/root/.cache/vllm", False),
    ],
    "tei": [mount("bind", "/srv/hub", "/data", False)],
}


def body(kind: EngineImage = "llamacpp") -> dict[str, Any]:
    """What a gateway sends; each call makes it anew."""
    made = {
        "Image": HOST.images[kind],
        "Cmd": COMMANDS[kind],
        "Env": ENVIRONMENT[kind],
        "Labels": LABELS,
        "User": "" if kind == "vllm" else HOST.user,
        "HostConfig": {
            "NetworkMode": HOST.networks[kind],
            "Mounts": MOUNTS[kind],
            "CapDrop": ["ALL"],
            "CapAdd": ["DAC_OVERRIDE"] if kind == "vllm" else [],
            "SecurityOpt": ["no-new-privileges:true"],
            "ReadonlyRootfs": kind != "vllm",
            "Tmpfs": {} if kind == "vllm" else {"/tmp": "mode=1777"},
            "Memory": 8 * 2**30,
            "NanoCpus": 2 * 10**9,
            "PidsLimit": 512,
            "ShmSize": 4 * 2**30 if kind == "vllm" else 0,
            "RestartPolicy": {"Name": "no"},
            "Init": True,
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
            "DeviceRequests": [
                {"Driver": "nvidia", "Count": -1, "DeviceIDs": [], "Capabilities": [["gpu"]]}
            ],
        },
        "NetworkingConfig": {"EndpointsConfig": {HOST.networks[kind]: {}}},
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGTERM",
    }
    if kind == "tei":
        made["Entrypoint"] = ["text-embeddings-router"]
    return deepcopy(made)


def changed(path: str, value: Any, kind: EngineImage = "llamacpp") -> dict[str, Any]:
    """A body in which the key at `path`, HostConfig.Binds, says `value`."""
    made = body(kind)
    at: Any = made
    *parts, last = path.split(".")
    for part in parts:
        at = at[int(part)] if isinstance(at, list) else at[part]
    at[last] = value
    return made
