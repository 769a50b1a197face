"""What the broker tells the gateway: what an engine's container may be made of on this host."""

from typing import Literal

from pydantic import Field

from contracts.base import Message

EngineImage = Literal["llamacpp", "vllm", "tei"]
ENGINE_IMAGES: tuple[EngineImage, ...] = ("llamacpp", "vllm", "tei")


class HostMounts(Message):
    """Folders of the host. The hub's is None where the broker has none mounted."""

    models: str = Field(pattern="^/")
    hub: str | None = Field(None, pattern="^/")


class EngineVolumes(Message):
    """Docker's names of the volumes that engines write to."""

    vllm_cache: str
    slots: str


class DockerHost(Message):
    """Answer of the broker's `GET /variet/host`. Images, networks and volumes are named as Docker
    names them. `memory_mib` and `cpus` are what one engine may take at most."""

    project: str
    images: dict[EngineImage, str]
    gpu: bool
    networks: dict[EngineImage, str]
    mounts: HostMounts
    volumes: EngineVolumes
    user: str = Field(pattern=r"^\d+:\d+$")
    memory_mib: int = Field(gt=0)
    cpus: float = Field(gt=0)

    @property
    def name_start(self) -> str:
        """What the names of all engines' containers begin with."""
        return f"{self.project}-engine-"

    def kind_of(self, image: str) -> EngineImage | None:
        """The engine that an image holds; None: it is no image of this host's engines."""
        return next((kind for kind, name in self.images.items() if name == image), None)
