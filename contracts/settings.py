"""All settings, read once from the environment (and `.env`), validated at start, frozen."""

from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic.config import JsonDict
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.settings_reading import REPOSITORY as REPOSITORY
from contracts.settings_reading import header_key, read_page
from contracts.wake import mac_bytes

# Marks what people change most: the README lists these, docs/settings.md all.
COMMON: JsonDict = {"common": True}
HANDS: JsonDict = {"host": "hands"}
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Settings(BaseSettings):
    """The environment names are the field names in capitals."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

    # Where the orchestrator listens, and who may call it.
    bind_addr: str = Field(
        "127.0.0.1",
        description="address that the orchestrator listens on",
        json_schema_extra=COMMON,
    )
    port: int = Field(
        8001, ge=0, le=65535, description="its port; 0 takes a free one", json_schema_extra=COMMON
    )
    variet_api_key: SecretStr | None = Field(
        None,
        description="bearer key of the one user; needed when BIND_ADDR is not loopback",
        json_schema_extra=COMMON,
    )
    variet_keys_file: Path | None = Field(
        None, description="YAML file of named keys: `name: {key, surface}`"
    )

    # Which model answers.
    openai_compat_url: str | None = Field(
        None,
        description="base URL of an OpenAI-compatible server, ending in /v1",
        json_schema_extra=COMMON,
    )
    openai_compat_key: SecretStr | None = Field(
        None, description="bearer key of that server", json_schema_extra=COMMON
    )
    model_id: str | None = Field(
        None, description="model to ask for, or manifest id to load", json_schema_extra=COMMON
    )
    max_model_len: int | None = Field(
        None,
        ge=512,
        description="context window in tokens; default: the manifest's",
        json_schema_extra=COMMON,
    )
    brain_mac: str | None = Field(
        None,
        description="network card of the brain, to wake it by when it does not answer; default: it"
        " is left alone",
        json_schema_extra=HANDS,
    )
    brain_wake_s: float = Field(
        90,
        gt=0,
        description="seconds that it is given to wake up and answer",
        json_schema_extra=HANDS,
    )
    local_fallback: bool = Field(
        False,
        description="use the local model when OPENAI_COMPAT_URL does not answer",
        json_schema_extra=COMMON,
    )
    model_store: Path = Field(
        REPOSITORY / "data/state/models",
        description="folder of pulled models",
        json_schema_extra=COMMON,
    )
    hf_token: SecretStr | None = Field(None, description="token for gated models")
    hf_endpoint: str = Field("https://huggingface.co", description="model hub to pull from")
    engine_threads: int = Field(
        0, ge=0, description="threads of the embedded engine; 0: by model size"
    )
    engine_parallel: int = Field(2, ge=1, le=64, description="requests that it serves at once")

    # Knowledge.
    embed_url: str | None = Field(
        None, description="OpenAI-compatible embeddings server, ending in /v1; default: in-process"
    )
    embed_key: SecretStr | None = Field(None, description="bearer key of that server")
    embed_model: str = Field("all-MiniLM-L6-v2", description="embedding model")

    qdrant_url: str | None = Field(
        None, description="Qdrant server that keeps the index; default: files in STATE_DIR/index"
    )
    qdrant_api_key: SecretStr | None = Field(None, description="key of that server")

    # Files and tools.
    state_dir: Path = Field(
        REPOSITORY / "data/state",
        description="folder of all run-time state",
        json_schema_extra=COMMON,
    )
    database_url: SecretStr | None = Field(
        None,
        description="PostgreSQL for threads, runs, approvals and journal: postgresql://USER:PASSWORD"
        "@HOST:PORT/NAME; default: SQLite files in STATE_DIR",
    )
    workspace_dir: Path | None = Field(
        None,
        description="folder that tools may work in; default: STATE_DIR/workspace",
        json_schema_extra=COMMON,
    )
    maps_dir: Path | None = Field(None, description="calibration maps; default: WORKSPACE_DIR/maps")
    logs_dir: Path | None = Field(None, description="log files; default: WORKSPACE_DIR/logs")
    allow_unsandboxed: bool = Field(
        False,
        description="let run_tests execute code without a sandbox, after confirmation",
        json_schema_extra=COMMON,
    )
    tool_servers_file: Path | None = Field(
        None,
        description="YAML file of tool servers, `name: {url, token_env, timeout_s}`: the only ones"
        " there are then, besides the index; default: all of them, in this process",
    )
    policy_file: Path | None = Field(
        None, description="YAML file: tool name to allow|confirm|deny", json_schema_extra=COMMON
    )
    tool_timeout_s: float = Field(60, gt=0, description="time limit of one tool call, seconds")

    # A tool server as a process of its own: `python -m tools.NAME serve`.
    tool_host: str = Field("127.0.0.1", description="address that a tool server listens on")
    tool_port: int = Field(8000, ge=0, le=65535, description="its port; 0 takes a free one")
    tool_token: SecretStr | None = Field(
        None, description="bearer key that it asks for, of 16 characters at least"
    )

    # Runs.
    approval_ttl_s: float = Field(
        86_400, gt=0, description="approvals expire after this, seconds", json_schema_extra=COMMON
    )
    max_steps: int = Field(10, ge=1, le=100, description="engine calls per run at most")
    max_tokens: int = Field(
        1_024, ge=16, description="tokens per engine answer at most", json_schema_extra=COMMON
    )
    temperature: float = Field(0.0, ge=0, le=2, description="sampling temperature")
    first_token_timeout_s: float = Field(
        120, gt=0, description="wait for an engine's first token, seconds", json_schema_extra=COMMON
    )
    engine_wait_s: float = Field(
        900,
        gt=0,
        description="wait for a model that the brain has to load, or that others use, seconds; more"
        " than its GATEWAY_QUEUE_TIMEOUT_S",
    )
    token_timeout_s: float = Field(30, gt=0, description="wait between tokens, seconds")
    drain_timeout_s: float = Field(
        10, ge=0, description="at shutdown, time for running runs to end, seconds"
    )
    retention_days: int = Field(
        90, ge=0, description="threads idle for longer go; 0 keeps all", json_schema_extra=COMMON
    )
    raw_runs: int = Field(200, ge=0, description="runs whose raw engine exchanges are kept")

    # Traces.
    langfuse_base_url: str | None = Field(
        None, description="Langfuse server", json_schema_extra=COMMON
    )
    langfuse_public_url: str | None = Field(
        None, description="its address for people, in links to traces; default: LANGFUSE_BASE_URL"
    )
    langfuse_public_key: str | None = Field(
        None, description="Langfuse project key, public part", json_schema_extra=COMMON
    )
    langfuse_secret_key: SecretStr | None = Field(
        None, description="Langfuse project key, secret", json_schema_extra=COMMON
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe log level printed", json_schema_extra=COMMON
    )

    @field_validator(
        "openai_compat_url",
        "embed_url",
        "qdrant_url",
        "langfuse_base_url",
        "langfuse_public_url",
        "hf_endpoint",
    )
    @classmethod
    def _http_url(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("has to start with http:// or https://")
        return value.rstrip("/") if value else value

    @field_validator(
        "variet_api_key", "openai_compat_key", "embed_key", "qdrant_api_key", "hf_token"
    )
    @classmethod
    def _sent_key(cls, value: SecretStr | None) -> SecretStr | None:
        return header_key(value)

    @field_validator("brain_mac")
    @classmethod
    def _card(cls, value: str | None) -> str | None:
        if value is not None:
            mac_bytes(value)
        return value

    @field_validator("database_url")
    @classmethod
    def _postgres_url(cls, value: SecretStr | None) -> SecretStr | None:
        schemes = ("postgresql://", "postgres://")
        if value is not None and not value.get_secret_value().startswith(schemes):
            raise ValueError("has to be postgresql://USER:PASSWORD@HOST:PORT/NAME")
        return value

    @model_validator(mode="after")
    def _keyed_unless_loopback(self) -> "Settings":
        if not self.loopback and not (self.variet_api_key or self.variet_keys_file):
            raise ValueError(
                f"BIND_ADDR={self.bind_addr} is not loopback, and neither VARIET_API_KEY nor"
                " VARIET_KEYS_FILE is set: anyone on the network could use this assistant"
            )
        return self

    @property
    def loopback(self) -> bool:
        return self.bind_addr in LOOPBACK

    @cached_property
    def workspace(self) -> Path:
        return self.workspace_dir or self.state_dir / "workspace"

    @cached_property
    def maps(self) -> Path:
        return self.maps_dir or self.workspace / "maps"

    @cached_property
    def logs(self) -> Path:
        return self.logs_dir or self.workspace / "logs"

    @cached_property
    def undo_dir(self) -> Path:
        return self.state_dir / "undo"

    @property
    def langfuse_enabled(self) -> bool:
        return bool(
            self.langfuse_base_url and self.langfuse_public_key and self.langfuse_secret_key
        )


def load_settings(**overrides: object) -> Settings:
    """Read the settings. Raises SettingsError that names each wrong key with its value."""
    return read_page(Settings, overrides)
