"""What runs the engines of this gateway: Docker through the broker, or processes of this host."""

import os
import secrets
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from contracts.deployment import Deployment
from contracts.errors import SettingsError
from contracts.gateway_settings import GatewaySettings
from contracts.preset import HostPreset
from contracts.settings import Settings, load_settings
from models.store import Store
from services.gateway.catalogue import EngineSpec
from services.gateway.engines.commands import card_devices
from services.gateway.engines.engine import Engine

KEY_FILE = "engine.key"


class EngineHost(Protocol):
    def engine(self, spec: EngineSpec) -> Engine:
        """The engine of `spec`. Nothing is started."""

    async def remove_strangers(self, keep: Collection[str]) -> list[str]:
        """End engines of this installation whose fingerprint is not in `keep`. Returns the names of
        those that ran."""

    async def close(self) -> None:
        """Let go of connections; engines run on."""


async def open_host(
    settings: GatewaySettings,
    deployment: Deployment,
    preset: HostPreset,
    state: Path,
    common: Settings | None = None,
) -> EngineHost:
    """What ENGINE_BACKEND chooses. `state` is the gateway's folder; `common` names the model store
    and the hub, default: as the settings are read. Raises Unavailable where the broker does not
    answer."""
    told = common or load_settings()
    key = engine_key(state)
    if settings.engine_backend == "process":
        # Late: a gateway needs one of the two, and Docker's library is big.
        from services.gateway.engines.processes import ProcessHost, ProcessPlace, split_command

        place = ProcessPlace(
            folder=state / "engines",
            command=split_command(settings.llama_server),
            key=key,
            store=Store.of(told),
            load_timeout_s=settings.gateway_load_timeout_s,
            keep_kv=settings.gateway_keep_kv,
            devices=card_devices(deployment, preset),
        )
        return ProcessHost(place)
    from services.gateway.engines.containers import open_containers

    return await open_containers(settings, deployment, preset, told, key)


def engine_key(state: Path) -> str:
    """The bearer key of all engines of this installation, made at its first start. Raises
    SettingsError where it cannot be kept."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _kept_key(state / KEY_FILE)
    except OSError as error:
        raise unwritable(state, error) from error


def unwritable(state: Path, error: OSError) -> SettingsError:
    return SettingsError(
        "gateway_state",
        f"GATEWAY_STATE_DIR={state}: {error.filename or 'it'} cannot be kept: {error.strerror}.",
        "Give the gateway's user a folder that it may write, with some space left.",
    )


def _kept_key(path: Path) -> str:
    with suppress(FileNotFoundError):
        if key := path.read_text().strip():
            return key
    key = secrets.token_urlsafe(32)
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key)
    part.replace(path)
    return key
