"""Sums of memory by device. A device that is not named holds nothing; results may be negative."""

from collections.abc import Iterable

from services.gateway.scheduling.types import Demand


def total(demands: Iterable[Demand]) -> dict[str, int]:
    summed: dict[str, int] = {}
    for demand in demands:
        for device, mib in demand.items():
            summed[device] = summed.get(device, 0) + mib
    return summed


def plus(one: Demand, other: Demand) -> dict[str, int]:
    return total((one, other))


def minus(one: Demand, other: Demand) -> dict[str, int]:
    return {d: one.get(d, 0) - other.get(d, 0) for d in {**one, **other}}


def larger(one: Demand, other: Demand) -> dict[str, int]:
    """Of each device the larger of the two."""
    return {d: max(one.get(d, 0), other.get(d, 0)) for d in {**one, **other}}


def lacking(need: Demand, room: Demand) -> dict[str, int]:
    """What is missing of each device that is needed and short; a device of which nothing is needed
    is never short, even if it is overdrawn."""
    missing = {d: mib - room.get(d, 0) for d, mib in need.items() if mib > 0}
    return {d: mib for d, mib in missing.items() if mib > 0}


def capped(seen: Demand, budget: Demand) -> dict[str, int]:
    """What was seen to run fits alone, even if the driver counts a little more than thought."""
    return {d: min(mib, budget.get(d, 0)) for d, mib in seen.items()}


def written(demand: Demand, devices: Iterable[str] | None = None) -> str:
    """`card0 9000 MiB, ram 2000 MiB`, of those devices, else of all that hold something."""
    named = sorted(demand) if devices is None else sorted(devices)
    return ", ".join(f"{d} {demand.get(d, 0)} MiB" for d in named) or "nothing"
