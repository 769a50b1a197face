"""Settings of the broker, the one process of the brain that holds the Docker engine's socket."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic.config import JsonDict
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.settings_reading import read_page

BRAIN: JsonDict = {"host": "brain"}
SIZE = re.compile(r"^(\d+)([bkmg]?)b?$", re.IGNORECASE)
UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30}
DockerName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$")]


class BrokerSettings(BaseSettings):
    """The environment names are the field names in capitals. Compose gives them to the broker's
    container; where images, networks and volumes are not named, they follow from the project."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

    compose_project_name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$",
        description="project that the engines belong to",
        json_schema_extra=BRAIN,
    )
    broker_socket: Path = Field(
        Path("/run/broker/docker.sock"),
        description="socket of the broker that lets the gateway at Docker",
        json_schema_extra=BRAIN,
    )
    docker_socket: Path = Field(
        Path("/var/run/docker.sock"),
        description="socket of the Docker engine",
        json_schema_extra=BRAIN,
    )
    llamacpp_variant: str | None = Field(
        None, description="llama-server image: `llamacpp-…` of services/images.yaml"
    )
    vllm_variant: str | None = Field(
        None, description="vLLM image: `vllm-…` of services/images.yaml"
    )
    tei_variant: str | None = Field(
        None, description="embeddings image: `tei-…` of services/images.yaml"
    )
    llamacpp_image: str | None = Field(None, description="llama-server image, before the variant")
    vllm_image: str | None = Field(None, description="vLLM image, before the variant")
    tei_image: str | None = Field(None, description="embeddings image, before the variant")
    engine_gpu: bool | None = Field(
        None, description="whether engines get the cards; default: if a variant runs on cards"
    )
    llamacpp_network: DockerName | None = Field(
        None, description="network of llama-server; default: PROJECT_llamacpp"
    )
    vllm_network: DockerName | None = Field(
        None, description="network of vLLM; default: PROJECT_vllm"
    )
    tei_network: DockerName | None = Field(
        None, description="network of the embeddings servers; default: PROJECT_tei"
    )
    vllm_cache_volume: DockerName | None = Field(
        None, description="volume of vLLM's compiled kernels; default: PROJECT_vllm_cache"
    )
    slots_volume: DockerName | None = Field(
        None, description="volume of llama-server's prompt caches; default: PROJECT_slots"
    )
    variet_uid: int = Field(1000, ge=0, description="user that engines run as")
    variet_gid: int = Field(1000, ge=0, description="group of that user")
    engine_memory: str = Field("16g", description="main memory that an engine may take")
    engine_cpus: float = Field(2, gt=0, description="processor cores that an engine may use")

    @field_validator("engine_memory")
    @classmethod
    def _size(cls, value: str) -> str:
        if not SIZE.match(value) or size_mib(value) < 1:
            raise ValueError("has to be a size such as 16g or 6144m")
        return value


def size_mib(size: str) -> int:
    """Whole MiB of a size as Compose writes it: 16g, 6144m, 17179869184."""
    found = SIZE.match(size)
    assert found, "the settings have checked it"
    return int(found[1]) * UNITS[found[2].lower()] // 2**20


def load_broker_settings(**overrides: object) -> BrokerSettings:
    """Read them. Raises SettingsError that names each wrong key with its value."""
    return read_page(BrokerSettings, overrides)
