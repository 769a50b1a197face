"""The memory as owners ask for it: what a start takes, when it is free, and what was seen."""

from collections.abc import Iterable
from pathlib import Path

from contracts.settings import Settings
from contracts.tiers import DeviceStatus
from services.gateway.catalogue import EngineSpec
from services.gateway.configuration import Configuration
from services.gateway.engines.engine import Running
from services.gateway.owners import Plan
from services.gateway.reload import Read, configuration
from services.gateway.scheduling.types import Demand


class MemoryRoom:
    def __init__(self, read: Read) -> None:
        self._budget = {"ram": read.settings.gateway_ram_mib or 1000}

    def configuration(self, read: Read) -> Configuration:
        return configuration(read, self._budget, self._demand, lambda spec: None)

    def _demand(self, spec: EngineSpec) -> Demand:
        return {"ram": spec.entry.ram_mib}

    def statuses(self, reserved: Demand) -> Iterable[DeviceStatus]:
        return ()

    def plan(self, spec: EngineSpec, attempt: int) -> Plan:
        return Plan(spec.context // attempt, self._demand(spec))

    async def wait(self, plan: Plan) -> None:
        pass

    def note(self, spec: EngineSpec, running: Running, plan: Plan | None) -> Demand:
        return self._demand(spec)


async def open_room(read: Read, common: Settings, state: Path) -> MemoryRoom:
    return MemoryRoom(read)
