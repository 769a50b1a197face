"""Machines as `cli.host.facts` would find them."""

import os

from cli.host.addresses import Address
from cli.host.docker import Docker
from cli.host.facts import Host
from cli.host.gpus import Gpu, Gpus

LAN = "192.168.1.10"


def card(index: int, name: str, mib: int, compute: str, driver: str = "580.95.05") -> Gpu:
    return Gpu(index, f"NVIDIA GeForce {name}", f"GPU-{index}", driver, mib, mib - 300, compute)


def host(*cards: Gpu, **facts: object) -> Host:
    """A machine that lacks nothing, but for what `facts` say."""
    base: dict[str, object] = {
        "system": "linux",
        "machine": "x86_64",
        "cpus": 16,
        "ram_mib": 64_000,
        "disk_free": 500 * 10**9,
        "gpus": Gpus(cards, "" if cards else "nvidia-smi: No such file or directory"),
        "docker": Docker("28.5.2", "2.40.3", nvidia=True),
        "addresses": (Address("enp5s0", LAN, default=True),),
        "uid": os.getuid(),
        "gid": os.getgid(),
    }
    return Host(**base | facts)  # type: ignore[arg-type]
