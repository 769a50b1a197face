"""What the brain's gateway tells of its engines: `GET /tiers`, and what its admin routes answer."""

from typing import Literal

from pydantic import Field

from contracts.base import Message
from contracts.errors import ErrorBody
from contracts.manifest import ModelEngine, ModelKind, Tier

EngineState = Literal["stopped", "loading", "ready", "draining", "unloading", "asleep", "failed"]
LoadPhase = Literal["drain", "stop", "memory", "start", "ready"]
Priority = Literal["chat", "background"]


class DeviceStatus(Message):
    """A card, or the main memory (`ram`). All figures are MiB. `reserved` is what the engines that
    are here, come or go may take; `free` is what the device itself tells, null: it does not."""

    device: str
    name: str
    total: int
    budget: int = Field(description="what engines may take of it together")
    reserved: int
    free: int | None = None


class EngineStatus(Message):
    """One engine. `name` is what answers are signed with."""

    name: str
    model: str
    kind: ModelKind
    engine: ModelEngine
    tiers: tuple[Tier, ...] = ()
    aliases: tuple[str, ...] = ()
    state: EngineState
    phase: LoadPhase | None = Field(None, description="of a load that is under way")
    progress: float | None = Field(None, ge=0, le=1, description="of that phase; null: unknown")
    context: int = Field(description="tokens per request, as it runs now or would be started")
    context_reduced: bool = Field(False, description="less than configured: the memory was short")
    needs_mib: dict[str, int] = Field(description="by device")
    pinned: bool = False
    in_flight: int = 0
    queued: int = 0
    tokens_per_s: float | None = Field(None, description="of the last answer")
    idle_s: float | None = None
    unloads_in_s: float | None = None
    restarts: int = 0
    error: ErrorBody | None = Field(None, description="why it is not here")


class TiersStatus(Message):
    """`locked`: the engine beside which nothing is loaded; null: none."""

    engines: tuple[EngineStatus, ...]
    devices: tuple[DeviceStatus, ...]
    locked: str | None = None
    default: str = Field(description="engine of requests that name `default`, or none")


class SwapProgress(Message):
    """Where a waiting request stands. `position` counts from 1; 0: nobody is before it."""

    engine: str
    stage: Literal["queued", "draining", "loading", "ready"]
    position: int = 0
    phase: LoadPhase | None = None
    progress: float | None = None
    detail: str = ""


class Switch(Message):
    """Body of the routes `pin` and `lock` of a tier."""

    on: bool = True


class Reloaded(Message):
    """Names of engines, after the configuration was read again."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
