"""What engines may be made of on this host: of the settings, and of this container's own mounts."""

import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contracts.broker import ENGINE_IMAGES, DockerHost, EngineVolumes, HostMounts
from contracts.broker_settings import BrokerSettings, size_mib
from contracts.errors import SettingsError, Unavailable
from models.images import engine_image
from services.broker.docker_engine import DockerEngine
from services.broker.refusal import Refusal

MODELS, HUB = "/models", "/hub"
OWN_FILES = re.compile(r"/containers/([0-9a-f]{64})/(?:hostname|hosts|resolv\.conf) ")
MOUNT_TABLE = Path("/proc/self/mountinfo")


def docker_host(settings: BrokerSettings, sources: Mapping[str, str]) -> DockerHost:
    """`sources` are the host's folders by their place in this container. Raises SettingsError."""
    if MODELS not in sources:
        raise SettingsError(
            "no_model_store",
            f"Nothing of the host is mounted at {MODELS} of the broker's container.",
            "Mount the model store there, read-only; the hub's folder at /hub.",
        )
    images = {
        kind: engine_image(
            kind, getattr(settings, f"{kind}_variant"), getattr(settings, f"{kind}_image")
        )
        for kind in ENGINE_IMAGES
    }
    if len({image.name for image in images.values()}) < len(images):
        raise SettingsError(
            "same_image",
            "Two engines have the same image, which decides what a container may have.",
            "Set LLAMACPP_IMAGE, VLLM_IMAGE and TEI_IMAGE to images of their own.",
        )
    project = settings.compose_project_name
    # vLLM's default is for cards, too: only a variant that is named says that the host has them.
    cards = any(i.cards for kind, i in images.items() if kind != "vllm" or settings.vllm_variant)
    return DockerHost(
        project=project,
        images={kind: image.name for kind, image in images.items()},
        gpu=cards if settings.engine_gpu is None else settings.engine_gpu,
        networks={
            kind: getattr(settings, f"{kind}_network") or f"{project}_{kind}"
            for kind in ENGINE_IMAGES
        },
        mounts=HostMounts(models=sources[MODELS], hub=sources.get(HUB)),
        volumes=EngineVolumes(
            vllm_cache=settings.vllm_cache_volume or f"{project}_vllm_cache",
            slots=settings.slots_volume or f"{project}_slots",
        ),
        user=f"{settings.variet_uid}:{settings.variet_gid}",
        memory_mib=size_mib(settings.engine_memory),
        cpus=settings.engine_cpus,
    )


async def own_sources(docker: DockerEngine, name: str) -> dict[str, str]:
    """The host's folders that this container, `name`, has mounted, by their place in it. Raises
    Unavailable when Docker does not know it."""
    remedy = "Look whether its socket is mounted and the broker runs in a container of it."
    try:
        status, known = await docker.inspect("", name)
    except Refusal as refusal:
        raise Unavailable("no_docker", f"{refusal.message}.", remedy) from refusal
    if status != 200:
        raise Unavailable("unknown_container", f"Docker does not know {name}.", remedy)
    return mounted(known)


def mounted(known: Mapping[str, Any]) -> dict[str, str]:
    return {
        mount["Destination"]: mount["Source"]
        for mount in known.get("Mounts") or ()
        if mount.get("Source", "").startswith("/")
    }


def own_name(table: Path = MOUNT_TABLE) -> str:
    """This container's id, as the files tell that Docker mounts in each; else its host name, which
    begins with it."""
    found = OWN_FILES.search(table.read_text("utf-8", "replace"))
    return found[1] if found else socket.gethostname()
