"""Settings that Docker Compose and `variet init` read from `.env`, besides those of the programs.

`contracts.settings` holds what a process of ours reads itself; this page what the two stacks are
made with. A name stands on one of the two pages only.
"""

from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic.config import JsonDict
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.manifest import Tier
from contracts.settings import COMMON
from contracts.settings_reading import read_page

Role = Literal["brain", "hands"]

BRAIN: JsonDict = {"host": "brain"}
HANDS: JsonDict = {"host": "hands"}
BRAIN_COMMON: JsonDict = {**BRAIN, **COMMON}


class Deployment(BaseSettings):
    """The environment names are the field names in capitals. `json_schema_extra["host"]` says
    which host a setting is for; without it, both."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

    # This host.
    variet_role: Role | None = Field(None, description="what this host is; `variet init` sets it")
    variet_preset: str | None = Field(
        None, description="the brain's hardware preset, a file of models/hosts"
    )
    compose_file: str | None = Field(None, description="the stack's file, by role")
    compose_profiles: str | None = Field(
        None, description="parts of the stack that run here", json_schema_extra=COMMON
    )
    lan_ip: str | None = Field(
        None,
        description="this host's address on the LAN; the brain publishes its port there only",
        json_schema_extra=COMMON,
    )
    brain_ip: str | None = Field(
        None, description="the brain's address on the LAN", json_schema_extra=HANDS
    )
    hands_ip: str | None = Field(
        None,
        description="the workstation's address; the firewall admits it",
        json_schema_extra=BRAIN,
    )
    variet_uid: int = Field(1000, description="user that owns the workspace folder and the state")
    variet_gid: int = Field(1000, description="group of that user")
    variet_tag: str = Field("dev", description="tag of our own images", json_schema_extra=HANDS)
    base_image: str | None = Field(
        None,
        description="Debian with Python that our images are built on; default: the Dockerfile's",
        json_schema_extra=HANDS,
    )

    # The brain's engines.
    engine_tier: Tier = Field(
        "balanced",
        description="tier that is loaded at the start, and that `default` means",
        json_schema_extra=BRAIN_COMMON,
    )
    gateway_cards: Literal["gateway-cpu", "gateway-nvidia"] = Field(
        "gateway-cpu",
        description="whether the gateway sees NVIDIA's cards; an entry of services/images.yaml",
        json_schema_extra=BRAIN,
    )
    llamacpp_variant: str | None = Field(
        None,
        description="llama-server image: `llamacpp-…` of services/images.yaml",
        json_schema_extra=BRAIN,
    )
    tei_variant: str | None = Field(
        None,
        description="embeddings image: `tei-…` of services/images.yaml",
        json_schema_extra=BRAIN,
    )
    engine_memory: str = Field(
        "16g", description="main memory that an engine may take", json_schema_extra=BRAIN
    )
    engine_cpus: float = Field(
        2, gt=0, description="processor cores that an engine may use", json_schema_extra=BRAIN
    )
    gpu_mem_util: float = Field(
        0.9,
        gt=0,
        le=1,
        description="share of each card's memory that vLLM takes",
        json_schema_extra=BRAIN_COMMON,
    )
    nvidia_visible_devices_llm: str = Field(
        "0", description="cards of the chat engines, by index or UUID", json_schema_extra=BRAIN
    )
    nvidia_visible_devices_emb: str = Field(
        "0", description="card of embeddings and reranking", json_schema_extra=BRAIN
    )
    hf_home: Path = Field(
        Path("data/state/hub"),
        description="folder where the engines keep what they fetch from the hub",
        json_schema_extra=BRAIN,
    )

    # Secrets of the workstation's stack.
    postgres_password: SecretStr | None = Field(
        None, description="of PostgreSQL's user `variet`", json_schema_extra=HANDS
    )
    calibration_token: SecretStr | None = Field(
        None, description="key of the calibration tools", json_schema_extra=HANDS
    )
    logs_token: SecretStr | None = Field(
        None, description="key of the log tools", json_schema_extra=HANDS
    )
    workspace_token: SecretStr | None = Field(
        None, description="key of the workspace tools", json_schema_extra=HANDS
    )
    redis_password: SecretStr | None = Field(None, description="of Redis", json_schema_extra=HANDS)
    searxng_secret: SecretStr | None = Field(
        None, description="signs SearXNG's links", json_schema_extra=HANDS
    )

    # Langfuse, where its profile is selected.
    langfuse_port: int = Field(3000, description="Langfuse's port", json_schema_extra=HANDS)
    langfuse_s3_port: int = Field(
        8333, description="port of its media store, for browsers", json_schema_extra=HANDS
    )
    langfuse_internal_url: str | None = Field(
        None,
        description="Langfuse's address for the orchestrator's container, `http://langfuse-web:3000`"
        " where its profile is selected; default: LANGFUSE_BASE_URL",
        json_schema_extra=HANDS,
    )
    langfuse_admin_email: str = Field(
        "admin@variet.local", description="first user of Langfuse", json_schema_extra=HANDS
    )
    langfuse_admin_password: SecretStr | None = Field(
        None, description="that user's password", json_schema_extra=HANDS
    )
    langfuse_postgres_password: SecretStr | None = Field(
        None, description="of PostgreSQL's user `langfuse`", json_schema_extra=HANDS
    )
    langfuse_clickhouse_password: SecretStr | None = Field(
        None, description="of ClickHouse", json_schema_extra=HANDS
    )
    langfuse_s3_secret: SecretStr | None = Field(
        None, description="of the S3 store", json_schema_extra=HANDS
    )
    langfuse_salt: SecretStr | None = Field(
        None, description="hashes Langfuse's keys; never change it", json_schema_extra=HANDS
    )
    langfuse_encryption_key: SecretStr | None = Field(
        None, description="64 hexadecimal digits", json_schema_extra=HANDS
    )
    langfuse_nextauth_secret: SecretStr | None = Field(
        None, description="signs Langfuse's sessions", json_schema_extra=HANDS
    )

    @field_validator("lan_ip", "brain_ip", "hands_ip")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None and (wrong := not_an_address(value)):
            raise ValueError(wrong)
        return value


def not_an_address(text: str) -> str:
    """Why the stacks cannot use it as the address of one host; "" if they can."""
    try:
        address = ip_address(text)
    except ValueError:
        return "is no IP address"
    if address.version == 6:
        return "is an IPv6 address, and the stacks are published in IPv4"
    if address.is_unspecified or address.is_multicast or address.is_reserved:
        return "is no address of one host"
    return ""


def load_deployment(**overrides: object) -> Deployment:
    """Read them. Raises SettingsError that names each wrong key with its value."""
    return read_page(Deployment, overrides)
