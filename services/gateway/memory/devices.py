"""The preset's devices on this machine: what engines may take of each, and what is free now."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from contracts.deployment import Deployment
from contracts.gateway_settings import GatewaySettings
from contracts.preset import HostPreset
from contracts.tiers import DeviceStatus
from services.gateway.engines.commands import card_devices
from services.gateway.memory.readings import CardReading, RamReading, Readings

LOG = logging.getLogger(__name__)
RAM = "ram"
RAM_NAME = "main memory"


@dataclass(frozen=True, slots=True)
class Lack:
    """MiB of one device."""

    device: str
    name: str
    needed: int
    free: int

    def __str__(self) -> str:
        return f"{self.device} ({self.name}): {self.needed} MiB needed, {self.free} MiB free"


@dataclass(frozen=True, slots=True)
class Shortage:
    """Devices that have not enough memory free."""

    lacks: tuple[Lack, ...]

    def __str__(self) -> str:
        return "; ".join(str(lack) for lack in self.lacks)


class Devices:
    """`card0`, `card1`, ... are positions in the preset's list; which cards of the machine they are
    is said by NVIDIA_VISIBLE_DEVICES_LLM and _EMB, as indexes or UUIDs. Without NVIDIA's driver the
    preset's own figures hold. Nothing here raises."""

    def __init__(
        self,
        settings: GatewaySettings,
        preset: HostPreset,
        deployment: Deployment,
        readings: Readings,
    ) -> None:
        self._settings = settings
        self._preset = preset
        self._named = card_devices(deployment, preset)
        self._readings = readings
        self._unknown: set[int] = set()
        self._told: dict[int, CardReading] | None = None

    def budget(self, held: Mapping[str, int] | None = None) -> dict[str, int]:
        """What engines may take together, by device: of a card all but the margin and what
        processes that are not ours take now. `held` is what our engines hold at this moment. Left
        out, it is unknown who uses a card, and nothing counts as others'. It asks the driver, which
        may take its time in trouble: not for an event loop."""
        return self._budget(self._cards(), self._readings.ram(), held)

    def _budget(
        self,
        cards: Mapping[int, CardReading],
        ram: RamReading | None,
        held: Mapping[str, int] | None,
    ) -> dict[str, int]:
        budget = {
            f"card{place}": max(0, self._total(place, cards) - self._withheld(place, cards, held))
            for place in range(len(self._preset.cards))
        }
        return {**budget, RAM: self._ram_budget(ram)}

    def status(self, reserved: Mapping[str, int]) -> tuple[DeviceStatus, ...]:
        """Each device as it stood when the driver was asked last, which each load and each look at
        what others take does; `reserved` is what our engines hold or may take."""
        cards = self._cards() if self._told is None else self._told
        ram = self._readings.ram()
        budget = self._budget(cards, ram, reserved)
        told = [
            DeviceStatus(
                device=f"card{place}",
                name=self._name(place, cards),
                total=self._total(place, cards),
                budget=budget[f"card{place}"],
                reserved=reserved.get(f"card{place}", 0),
                free=cards[place].free_mib if place in cards else None,
            )
            for place in range(len(self._preset.cards))
        ]
        main = DeviceStatus(
            device=RAM,
            name=RAM_NAME,
            total=ram.total_mib if ram else self._preset.ram_mib,
            budget=budget[RAM],
            reserved=reserved.get(RAM, 0),
            free=ram.available_mib if ram else None,
        )
        return (*told, main)

    async def wait_until_free(
        self, demand: Mapping[str, int], timeout_s: float = 5.0, poll_s: float = 0.25
    ) -> Shortage | None:
        """Wait until the devices themselves have `demand` free: what ends gives its memory back a
        moment later. None: it is free, or the devices do not tell; else what lacks in the end."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            # In a thread: a driver in trouble may take its time.
            lacks = await asyncio.to_thread(self._lacks, demand)
            if not lacks:
                return None
            if loop.time() >= deadline:
                return Shortage(lacks)
            await asyncio.sleep(poll_s)

    def _lacks(self, demand: Mapping[str, int]) -> tuple[Lack, ...]:
        cards, ram = self._cards(), self._readings.ram()
        free = {f"card{place}": (card.name, card.free_mib) for place, card in cards.items()}
        if ram is not None and ram.available_mib is not None:
            free[RAM] = (RAM_NAME, ram.available_mib)
        return tuple(
            Lack(device, name, demand[device], mib)
            for device, (name, mib) in sorted(free.items())
            if demand.get(device, 0) > mib
        )

    def _cards(self) -> dict[int, CardReading]:
        """What the driver tells of the preset's cards, by their place; a card that it does not
        know, and one of another maker, is not among them."""
        if not any(card.compute for card in self._preset.cards):
            return {}
        told = self._readings.cards()
        if told is None:
            return {}
        found = {place: _find(told, name) for place, name in self._named.items()}
        self._complain({place for place, card in found.items() if card is None})
        self._told = {place: card for place, card in found.items() if card is not None}
        return self._told

    def _complain(self, unknown: set[int]) -> None:
        for place in sorted(unknown - self._unknown):
            LOG.warning(
                "the driver does not know a card of the preset; the preset's figures hold",
                extra={"device": f"card{place}", "told": self._named[place]},
            )
        self._unknown = unknown

    def _name(self, place: int, cards: Mapping[int, CardReading]) -> str:
        return cards[place].name if place in cards else self._preset.cards[place].name

    def _total(self, place: int, cards: Mapping[int, CardReading]) -> int:
        return cards[place].total_mib if place in cards else self._preset.cards[place].mib

    def _withheld(
        self, place: int, cards: Mapping[int, CardReading], held: Mapping[str, int] | None
    ) -> int:
        margin = self._settings.gateway_margin_mib
        if place not in cards or held is None:
            return margin
        return margin + max(0, cards[place].used_mib - held.get(f"card{place}", 0))

    def _ram_budget(self, ram: RamReading | None) -> int:
        total = ram.total_mib if ram else self._preset.ram_mib
        return self._settings.gateway_ram_mib or total * 4 // 5


def _find(cards: tuple[CardReading, ...], name: str) -> CardReading | None:
    """By index, or by the beginning of an UUID, as CUDA itself takes them."""
    if name.isdigit():
        return next((card for card in cards if card.index == int(name)), None)
    return next((card for card in cards if card.uuid.startswith(name)), None) if name else None
