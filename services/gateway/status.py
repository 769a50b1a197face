"""What the gateway tells of its engines, and of where a waiting request stands."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import get_args

from contracts.tiers import DeviceStatus, EngineState, EngineStatus, SwapProgress, TiersStatus
from services.gateway.catalogue import Catalogue, EngineSpec
from services.gateway.metrics import Metrics
from services.gateway.owners import Owner
from services.gateway.scheduling.types import Demand, EngineView, Place

DeviceStatuses = Callable[[Demand], Iterable[DeviceStatus]]


@dataclass(frozen=True, slots=True)
class Standing:
    """One engine, as everything that knows of it tells. `now` is on the scheduler's clock."""

    spec: EngineSpec
    view: EngineView
    owner: Owner
    speed: float | None
    now: float

    @property
    def state(self) -> EngineState:
        failed = self.view.state == "stopped" and self.view.failure is not None
        return "failed" if failed else self.view.state

    @property
    def context(self) -> int:
        return running_context(self.spec, self.owner)

    def status(self) -> EngineStatus:
        spec, view, owner = self.spec, self.view, self.owner
        return EngineStatus(
            name=spec.name,
            model=spec.entry.id,
            kind=spec.entry.kind,
            engine=spec.entry.engine,
            tiers=spec.tiers,
            aliases=spec.aliases,
            state=self.state,
            phase=owner.phase,
            progress=owner.progress,
            context=self.context,
            context_reduced=self.context < spec.context,
            needs_mib=dict(view.target.demand),
            pinned=view.target.pinned,
            in_flight=view.in_flight,
            queued=view.queued,
            tokens_per_s=self.speed,
            idle_s=_ago(self.now, view.idle_since),
            unloads_in_s=None if view.unloads_at is None else max(0.0, view.unloads_at - self.now),
            restarts=owner.restarts,
            error=view.failure.error if view.failure is not None else None,
        )


def running_context(spec: EngineSpec, owner: Owner) -> int:
    return owner.running.context if owner.running is not None else spec.context


def tiers_status(
    catalogue: Catalogue,
    standings: Iterable[Standing],
    devices: DeviceStatuses,
    locked: str | None,
) -> TiersStatus:
    known = tuple(standings)
    return TiersStatus(
        engines=tuple(standing.status() for standing in known),
        devices=tuple(devices(reserved(standing.view for standing in known))),
        locked=locked,
        default=catalogue.default,
    )


def reserved(views: Iterable[EngineView]) -> dict[str, int]:
    """MiB by device that engines hold, or may take while they come or go."""
    total: dict[str, int] = {}
    for view in views:
        for device, mib in view.reserved.items():
            total[device] = total.get(device, 0) + mib
    return total


def progress_of(name: str, place: Place | None, owner: Owner) -> SwapProgress:
    """Where a request for the engine `name` stands; `place` None: it is let in."""
    if place is None:
        return SwapProgress(engine=name, stage="ready")
    loading = place.stage == "loading"
    return SwapProgress(
        engine=name,
        stage=place.stage,
        position=place.position,
        phase=owner.phase if loading else None,
        progress=owner.progress if loading else None,
        detail=owner.detail if loading else "",
    )


def gauge(metrics: Metrics, status: TiersStatus) -> None:
    """Set what Prometheus is told of the present; engines that are no longer configured go."""
    for known in (metrics.in_flight, metrics.queued, metrics.state, metrics.memory):
        known.clear()
    for engine in status.engines:
        metrics.in_flight.labels(engine.name).set(engine.in_flight)
        metrics.queued.labels(engine.name).set(engine.queued)
        for state in get_args(EngineState):
            metrics.state.labels(engine.name, state).set(float(engine.state == state))
    for device in status.devices:
        kinds: Mapping[str, int | None] = {
            "total": device.total,
            "budget": device.budget,
            "reserved": device.reserved,
            "free": device.free,
        }
        for kind, mib in kinds.items():
            if mib is not None:
                metrics.memory.labels(device.device, kind).set(mib)


def _ago(now: float, since: float | None) -> float | None:
    return None if since is None else max(0.0, now - since)
