"""Settings of the brain's gateway, and of the broker that it reaches Docker through."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic.config import JsonDict
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.settings import COMMON
from contracts.settings_reading import REPOSITORY, header_key, read_page

BRAIN: JsonDict = {"host": "brain"}
BRAIN_COMMON: JsonDict = {**BRAIN, **COMMON}


class GatewaySettings(BaseSettings):
    """The environment names are the field names in capitals. What a host serves stands in its
    preset; a preset's own ttl_s and min_warm_s count more than those here."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

    gateway_host: str = Field(
        "127.0.0.1", description="address that the gateway listens on", json_schema_extra=BRAIN
    )
    gateway_port: int = Field(
        8000, ge=0, le=65535, description="the brain's port", json_schema_extra=BRAIN_COMMON
    )
    gateway_api_key: SecretStr | None = Field(
        None, description="bearer key of whoever asks the models", json_schema_extra=BRAIN
    )
    gateway_admin_key: SecretStr | None = Field(
        None,
        description="bearer key of whoever may load, unload, pin and lock them, too",
        json_schema_extra=BRAIN,
    )
    gateway_state_dir: Path | None = Field(
        None,
        description="what the gateway keeps; default: STATE_DIR/gateway",
        json_schema_extra=BRAIN,
    )
    models_dir: Path = Field(
        REPOSITORY / "models",
        description="folder of manifest.yaml and hosts/; `variet init` reads the repository's",
        json_schema_extra=BRAIN,
    )
    engine_backend: Literal["docker", "process"] = Field(
        "docker", description="what engines are run as", json_schema_extra=BRAIN
    )
    llama_server: str = Field(
        "llama-server",
        description="command line of llama-server, where engines run as processes",
        json_schema_extra=BRAIN,
    )
    broker_socket: Path = Field(
        Path("/run/broker/docker.sock"),
        description="socket of the broker that lets the gateway at Docker",
        json_schema_extra=BRAIN,
    )

    gateway_queue: int = Field(
        64, ge=1, description="requests that wait for one engine at most", json_schema_extra=BRAIN
    )
    gateway_queue_timeout_s: float = Field(
        600,
        gt=0,
        description="seconds that a request waits at most",
        json_schema_extra=BRAIN_COMMON,
    )
    gateway_max_wait_s: float = Field(
        120,
        ge=0,
        description="seconds after which a waiting request gets its model next",
        json_schema_extra=BRAIN_COMMON,
    )
    gateway_min_warm_s: float = Field(
        15,
        ge=0,
        description="seconds that a loaded model stays, though others wait",
        json_schema_extra=BRAIN_COMMON,
    )
    gateway_idle_s: float = Field(
        0,
        ge=0,
        description="idle seconds after which a model is unloaded; 0: never",
        json_schema_extra=BRAIN_COMMON,
    )
    gateway_load_timeout_s: float = Field(
        1800, gt=0, description="seconds that a load may take", json_schema_extra=BRAIN
    )
    gateway_max_stream_s: float = Field(
        1800, gt=0, description="seconds that an answer may take", json_schema_extra=BRAIN_COMMON
    )
    gateway_max_body_mib: int = Field(
        64, ge=1, description="size of a request at most", json_schema_extra=BRAIN
    )
    gateway_margin_mib: int = Field(
        512, ge=0, description="memory of each card that is left free", json_schema_extra=BRAIN
    )
    gateway_ram_mib: int | None = Field(
        None,
        gt=0,
        description="main memory that engines may take together; default: four fifths of it",
        json_schema_extra=BRAIN,
    )
    gateway_keep_kv: bool = Field(
        False,
        description="keep llama-server's prompt cache on disk while its model is unloaded",
        json_schema_extra=BRAIN,
    )
    gateway_canary_s: float = Field(
        300,
        ge=0,
        description="idle seconds after which a loaded engine is asked for one token; 0: never",
        json_schema_extra=BRAIN,
    )
    gateway_canary_timeout_s: float = Field(
        60,
        gt=0,
        description="seconds that it has for it, or it is restarted",
        json_schema_extra=BRAIN,
    )
    brain_sleep_after_s: float = Field(
        0,
        ge=0,
        description="seconds without a request after which BRAIN_SLEEP_COMMAND runs; 0: never",
        json_schema_extra=BRAIN,
    )
    brain_sleep_command: str | None = Field(
        None, description="command that lets the brain sleep", json_schema_extra=BRAIN
    )

    @field_validator("gateway_api_key", "gateway_admin_key")
    @classmethod
    def _sent_key(cls, value: SecretStr | None) -> SecretStr | None:
        return header_key(value)


def load_gateway_settings(**overrides: object) -> GatewaySettings:
    """Read them. Raises SettingsError that names each wrong key with its value."""
    return read_page(GatewaySettings, overrides)
