"""All that is known of this machine, gathered at once."""

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from cli.host.addresses import Address, addresses, lan_address
from cli.host.command import Runner, run
from cli.host.docker import Docker, docker
from cli.host.gpus import Gpus, gpus


@dataclass(frozen=True)
class Host:
    """Facts of this machine. Memory in MiB, disk in bytes; 0: not told. `system` is `linux`,
    `darwin` or another name of Python's `sys.platform`; `machine` as `uname -m` says it."""

    system: str
    machine: str
    cpus: int
    ram_mib: int
    disk_free: int
    gpus: Gpus
    docker: Docker
    addresses: tuple[Address, ...]
    uid: int
    gid: int

    @property
    def lan_ip(self) -> str | None:
        return lan_address(self.addresses)

    @property
    def is_mac(self) -> bool:
        return self.system == "darwin"

    def has_address(self, ip: str) -> bool:
        return any(one.ip == ip for one in self.addresses)


def examine(folder: Path, runner: Runner = run) -> Host:
    """Look at this machine. `disk_free` is that of the disk which holds `folder`, or will."""
    return Host(
        system=sys.platform,
        machine=platform.machine(),
        cpus=os.cpu_count() or 1,
        ram_mib=ram_mib(runner),
        disk_free=disk_free(folder),
        gpus=gpus(runner),
        docker=docker(runner),
        addresses=addresses(runner),
        uid=os.getuid(),
        gid=os.getgid(),
    )


def ram_mib(run: Runner) -> int:
    """Main memory, in MiB; 0 where the system does not tell it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    except (ValueError, OSError):
        told = run(("sysctl", "-n", "hw.memsize")).out.strip()
        return int(told) // 2**20 if told.isdigit() else 0


def disk_free(folder: Path) -> int:
    """Bytes free where `folder` is, or where it would be made; 0 where that cannot be read."""
    absolute = folder.absolute()
    existing = next((path for path in (absolute, *absolute.parents) if path.exists()), None)
    try:
        return shutil.disk_usage(existing).free if existing else 0
    except OSError:
        return 0
