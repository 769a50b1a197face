"""What an engine's container is made of: command, folders, limits and labels, as `services/broker`
lets it pass. Docker Compose's labels make it a part of the stack."""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docker import APIClient  # type: ignore[import-untyped]
from docker.types import DeviceRequest, LogConfig, Mount  # type: ignore[import-untyped]

from contracts.broker import DockerHost, EngineImage
from models.store import Store
from services.gateway.catalogue import EngineSpec
from services.gateway.engines import commands
from services.gateway.engines.commands import Hub, Launch, card_environment

PROJECT_LABEL = "com.docker.compose.project"
ENGINE_LABEL, FINGERPRINT_LABEL = "variet.engine", "variet.fingerprint"
CONTEXT_LABEL = "variet.context"
KINDS: Mapping[str, EngineImage] = {"llama.cpp": "llamacpp", "vllm": "vllm", "tei": "tei"}
PORTS: Mapping[EngineImage, int] = {
    "llamacpp": commands.LLAMACPP_PORT,
    "vllm": commands.VLLM_PORT,
    "tei": commands.TEI_PORT,
}
# Seconds that an engine has to end by itself.
GRACE_S: Mapping[EngineImage, int] = {"llamacpp": 20, "vllm": 60, "tei": 20}
PIDS: Mapping[EngineImage, int] = {"llamacpp": 512, "vllm": 4096, "tei": 512}
MODELS, SLOTS = "/models", "/slots"
TEI_HUB, VLLM_HUB, VLLM_CACHE = "/data", "/root/.cache/huggingface", "/root/.cache/vllm"
SHM = "4gb"


@dataclass(frozen=True)
class ContainerPlace:
    """What the engines of one gateway share. `host` is what the broker lets them have; `slots` is
    the gateway's view of the volume where prompt caches are kept, if they are; `devices` says how
    the driver calls the preset's cards."""

    host: DockerHost
    key: str
    store: Store
    hub: Hub = field(default_factory=Hub)
    memory_share: float = 0.9
    slots: Path | None = None
    devices: Mapping[int, str] = field(default_factory=dict)

    @property
    def keep_kv(self) -> bool:
        return self.slots is not None


def kind_of(spec: EngineSpec) -> EngineImage:
    return KINDS[spec.entry.engine]


def new_name(spec: EngineSpec, host: DockerHost) -> str:
    """Another one each time: that of a container which is being removed is not free at once."""
    return f"{host.name_start}{slug(spec.name)}-{secrets.token_hex(2)}"


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "-", name.lower())


def labels(spec: EngineSpec, context: int, host: DockerHost) -> dict[str, str]:
    return {
        PROJECT_LABEL: host.project,
        # A service that the stack's file declares and nothing selects: `up` would warn of another
        # one, and without a hash Compose does not see a container at all.
        "com.docker.compose.service": "engines",
        "com.docker.compose.config-hash": "variet",
        "com.docker.compose.container-number": "1",
        "com.docker.compose.oneoff": "False",
        ENGINE_LABEL: spec.name,
        FINGERPRINT_LABEL: spec.fingerprint,
        CONTEXT_LABEL: str(context),
    }


def create_arguments(
    api: APIClient, spec: EngineSpec, context: int, name: str, place: ContainerPlace
) -> dict[str, Any]:
    """Arguments of the SDK's create_container."""
    host, kind = place.host, kind_of(spec)
    launch = _launch(spec, context, place)
    environment = {**launch.environment, **card_environment(spec, place.devices)}
    if kind != "vllm":
        environment["HOME"] = "/tmp"
    return {
        "image": host.images[kind],
        "command": list(launch.words),
        "entrypoint": ["text-embeddings-router"] if kind == "tei" else None,
        "environment": environment,
        # vLLM runs as root, because Torch looks up its user's name.
        "user": None if kind == "vllm" else host.user,
        "name": name,
        "labels": labels(spec, context, host),
        # The gateway looks itself, and only while it loads. The images' own looks at a fixed port.
        "healthcheck": {"test": ["NONE"]},
        "host_config": _host_config(api, spec, place),
    }


def model_path(spec: EngineSpec, store: Store) -> str:
    """A model's file as an engine's container sees it: below the model store."""
    entry = spec.entry
    file = entry.source.file_name or entry.id
    if not entry.source.is_web and (store.root / file).is_file():
        return f"{MODELS}/{file}"
    return f"{MODELS}/{entry.id}/{file}"


def _launch(spec: EngineSpec, context: int, place: ContainerPlace) -> Launch:
    kind = kind_of(spec)
    if kind == "vllm":
        return commands.vllm(
            spec, context, key=place.key, memory_share=place.memory_share, hub=place.hub
        )
    if kind == "tei":
        return commands.text_embeddings(spec, key=place.key, cache=f"{TEI_HUB}/hub", hub=place.hub)
    return commands.llama_server(
        spec,
        context,
        model=model_path(spec, place.store),
        host="0.0.0.0",
        port=commands.LLAMACPP_PORT,
        key=place.key,
        slots=SLOTS if place.keep_kv else None,
    )


def _host_config(api: APIClient, spec: EngineSpec, place: ContainerPlace) -> dict[str, Any]:
    host, kind = place.host, kind_of(spec)
    cards = host.gpu and bool(spec.cards)
    made: dict[str, Any] = api.create_host_config(
        network_mode=host.networks[kind],
        mounts=_mounts(kind, place),
        mem_limit=host.memory_mib * 2**20,
        nano_cpus=round(host.cpus * 1e9),
        pids_limit=PIDS[kind],
        shm_size=SHM if kind == "vllm" else None,
        init=True,
        cap_drop=["ALL"],
        # It writes the hub's folder, which is another user's.
        cap_add=["DAC_OVERRIDE"] if kind == "vllm" else None,
        security_opt=["no-new-privileges:true"],
        read_only=kind != "vllm",
        tmpfs={"/tmp": "mode=1777"} if kind != "vllm" else None,
        restart_policy={"Name": "no"},
        log_config=LogConfig(type="json-file", config={"max-size": "10m", "max-file": "3"}),
        device_requests=[_all_cards()] if cards else None,
    )
    return made


def _all_cards() -> DeviceRequest:
    """CUDA_VISIBLE_DEVICES says which of them it uses."""
    return DeviceRequest(driver="nvidia", count=-1, capabilities=[["gpu"]])


def _mounts(kind: EngineImage, place: ContainerPlace) -> list[Mount]:
    host = place.host
    models = Mount(MODELS, host.mounts.models, type="bind", read_only=True)
    hub = host.mounts.hub
    if kind == "llamacpp":
        slots = Mount(SLOTS, host.volumes.slots, type="volume")
        return [models, slots] if place.keep_kv else [models]
    if kind == "vllm":
        cache = Mount(VLLM_CACHE, host.volumes.vllm_cache, type="volume")
        return [cache, *([Mount(VLLM_HUB, hub, type="bind")] if hub else [])]
    return [Mount(TEI_HUB, hub, type="bind")] if hub else []
