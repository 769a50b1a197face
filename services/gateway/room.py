"""The memory as owners ask for it: what a start takes, when it is free, and what was seen."""

from collections.abc import Iterable
from pathlib import Path

from contracts.preset import HostPreset
from contracts.settings import Settings
from contracts.tiers import DeviceStatus
from models.store import Store
from services.gateway.catalogue import EngineSpec
from services.gateway.configuration import Configuration
from services.gateway.engines.commands import card_devices, card_environment
from services.gateway.engines.engine import LoadError, Running
from services.gateway.memory.devices import Devices
from services.gateway.memory.fit_params import FitParams
from services.gateway.memory.learned import Learned
from services.gateway.memory.needs import asleep_needs, needs, reduced_context
from services.gateway.memory.readings import Readings, system_readings
from services.gateway.owners import Plan
from services.gateway.reload import Read, configuration
from services.gateway.scheduling.types import Demand

LEARNED_FILE = "learned.json"


class MemoryRoom:
    """`state` is the gateway's folder."""

    def __init__(
        self, read: Read, common: Settings, state: Path, readings: Readings | None = None
    ) -> None:
        settings = read.settings
        self._preset: HostPreset = read.preset
        self._store = Store.of(common)
        self._named = card_devices(read.deployment, read.preset)
        self._devices = Devices(
            settings, read.preset, read.deployment, readings or system_readings(settings)
        )
        self._learned = Learned(state / LEARNED_FILE)
        by_process = settings.engine_backend == "process"
        self._fit = FitParams.beside(settings.llama_server, state) if by_process else None
        self._told: dict[str, Demand] = {}

    def configuration(self, read: Read) -> Configuration:
        """What `read` makes of the devices as they are. Reads headers of model files, and may ask
        llama-fit-params: not for an event loop."""
        self._preset = read.preset
        return configuration(read, self._devices.budget(), self._told_demand, self._asleep)

    def budget(self, held: Demand) -> Demand:
        """What engines may take together, while ours hold `held`."""
        return self._devices.budget(held)

    def statuses(self, reserved: Demand) -> Iterable[DeviceStatus]:
        return self._devices.status(reserved)

    def plan(self, spec: EngineSpec, attempt: int) -> Plan:
        if attempt == 1:
            return Plan(spec.context, self._demand(spec, spec.context))
        budget = self._devices.budget()
        context = reduced_context(spec, self._preset, self._store.path(spec.entry), budget)
        return Plan(context, self._demand(spec, context))

    async def wait(self, spec: EngineSpec, plan: Plan, asleep: bool) -> None:
        held = self._asleep(spec) or {} if asleep else {}
        missing = {
            d: mib - held.get(d, 0) for d, mib in plan.demand.items() if mib > held.get(d, 0)
        }
        shortage = await self._devices.wait_until_free(missing)
        if shortage is not None:
            raise LoadError(
                "out_of_memory",
                "memory_not_free",
                f"{spec.name} was not started, something else holds the memory: {shortage}.",
                "End what else uses it, or give the model a smaller context in the host's preset.",
            )

    def note(self, spec: EngineSpec, running: Running, plan: Plan | None) -> Demand:
        if not running.seen_mib:
            return {}
        return self._learned.note(spec, running.context, running.seen_mib)

    def _asleep(self, spec: EngineSpec) -> Demand | None:
        return asleep_needs(spec, self._learned)

    def _demand(self, spec: EngineSpec, context: int) -> Demand:
        path = self._store.path(spec.entry)
        # It was asked for the configured context only.
        told = self._told.get(spec.fingerprint) if context == spec.context else None
        return needs(spec, self._preset, context, path, self._learned, told)

    def _told_demand(self, spec: EngineSpec) -> Demand:
        """Asks llama-fit-params, whose answer then counts at each load, too."""
        if self._fit is not None and spec.entry.engine == "llama.cpp":
            visible = card_environment(spec, self._named)["CUDA_VISIBLE_DEVICES"]
            path = self._store.path(spec.entry)
            self._told[spec.fingerprint] = self._fit.told(spec, spec.context, path, visible)
        return self._demand(spec, spec.context)
