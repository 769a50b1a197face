"""NVIDIA's cards, as nvidia-smi tells them."""

import csv
from dataclasses import dataclass

from cli.host.command import Runner

FIELDS = ("index", "name", "uuid", "driver_version", "memory.total", "memory.free", "compute_cap")
QUERY = ("nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Gpu:
    """One card. Memory in MiB; `compute` is the capability, as in "8.6"; "" and 0: not told."""

    index: int
    name: str
    uuid: str
    driver: str
    total_mib: int
    free_mib: int
    compute: str


@dataclass(frozen=True)
class Gpus:
    """`problem` says why there are none: nvidia-smi is missing, or what it said."""

    cards: tuple[Gpu, ...] = ()
    problem: str = ""

    @property
    def driver(self) -> str | None:
        return self.cards[0].driver if self.cards else None

    @property
    def driver_major(self) -> int | None:
        major = (self.driver or "").partition(".")[0]
        return int(major) if major.isdigit() else None


def gpus(run: Runner) -> Gpus:
    """The cards in the order of nvidia-smi, which is that of the PCI bus."""
    told = run(QUERY)
    if told.status is None:
        return Gpus(problem=told.error)
    if not told.ok:
        return Gpus(problem=(told.error or told.out).strip() or f"nvidia-smi ended {told.status}")
    rows = [[cell.strip() for cell in row] for row in csv.reader(told.out.splitlines())]
    cards = tuple(_gpu(row) for row in rows if len(row) == len(FIELDS) and row[0].isdigit())
    return Gpus(cards, "" if cards else "nvidia-smi lists no card")


def _gpu(row: list[str]) -> Gpu:
    index, name, uuid, driver, total, free, compute = row
    return Gpu(
        index=int(index),
        name=name,
        uuid=uuid,
        driver=driver,
        total_mib=_number(total),
        free_mib=_number(free),
        compute=compute if compute[:1].isdigit() else "",
    )


def _number(text: str) -> int:
    """nvidia-smi writes `[N/A]` for what a card does not tell."""
    return int(text) if text.isdigit() else 0
