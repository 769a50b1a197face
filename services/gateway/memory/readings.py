"""What the devices themselves tell: the cards by NVIDIA's management library, main memory by the
system. Not run on a GPU: the tests give the library's answers as they were recorded."""

import logging
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from contracts.gateway_settings import GatewaySettings

LOG = logging.getLogger(__name__)
MIB = 2**20
PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
TRY_AGAIN_S = 30.0


@dataclass(frozen=True, slots=True)
class CardReading:
    """A card as the driver tells it; `index` is the driver's."""

    index: int
    uuid: str
    name: str
    total_mib: int
    used_mib: int
    free_mib: int


@dataclass(frozen=True, slots=True)
class RamReading:
    """Main memory. `available` is what can be had without swapping; None: the system does not
    tell."""

    total_mib: int
    available_mib: int | None


class Readings(Protocol):
    def cards(self) -> tuple[CardReading, ...] | None:
        """All cards of the machine; None: there is no NVIDIA driver, or it does not answer."""

    def ram(self) -> RamReading | None: ...


class SystemReadings:
    """Those of this machine. The driver is asked for at the first call, and again later if it was
    not there: a machine may boot faster than its driver."""

    def __init__(
        self,
        nvml: Callable[[], Any] | None = None,
        proc: Path = PROC,
        cgroups: Path | None = CGROUPS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`nvml` brings the module `pynvml` or one that answers as it does. `cgroups` None: the
        limits of this process are not those of the engines, which are containers of their own."""
        self._load = nvml or _pynvml
        self._proc = proc
        self._cgroups = cgroups
        self._now = now
        self._nvml: Any = None
        self._next_try = float("-inf")

    def cards(self) -> tuple[CardReading, ...] | None:
        nvml = self._driver()
        if nvml is None:
            return None
        try:
            return tuple(_card(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
        except Exception as error:  # boundary: a driver that was updated or lost a card
            LOG.warning("the cards do not answer", extra={"error": str(error)})
            self._close()
            return None

    def ram(self) -> RamReading | None:
        total, available = _proc_meminfo(self._proc) if sys.platform != "darwin" else _sysctl()
        if total is None:
            return None
        limit, used = _cgroup(self._cgroups, self._proc) if self._cgroups else (None, None)
        if limit is not None and limit < total:
            left = max(0, limit - (used or 0))
            total, available = limit, left if available is None else min(available, left)
        return RamReading(total // MIB, None if available is None else available // MIB)

    def _driver(self) -> Any:
        if self._nvml is not None or self._now() < self._next_try:
            return self._nvml
        self._next_try = self._now() + TRY_AGAIN_S
        try:
            nvml = self._load()
            nvml.nvmlInit()
        except Exception as error:  # boundary: no driver, no library, no rights: all the same here
            LOG.info("no NVIDIA driver", extra={"error": str(error)})
            return None
        self._nvml = nvml
        return nvml

    def _close(self) -> None:
        """The library keeps the state of a driver that is gone until it is shut down."""
        nvml, self._nvml = self._nvml, None
        self._next_try = self._now() + TRY_AGAIN_S
        try:
            nvml.nvmlShutdown()
        except Exception as error:  # boundary: it was broken before
            LOG.debug("the driver's library was not shut down: %s", error)


def system_readings(settings: GatewaySettings) -> SystemReadings:
    """Of this machine, as its engines may use it."""
    return SystemReadings(cgroups=CGROUPS if settings.engine_backend == "process" else None)


def _pynvml() -> Any:
    # Late: where there is no card it is not needed.
    import pynvml  # type: ignore[import-untyped]

    return pynvml


def _card(nvml: Any, index: int) -> CardReading:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = _memory(nvml, handle)
    return CardReading(
        index=index,
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=_text(nvml.nvmlDeviceGetName(handle)),
        total_mib=memory.total // MIB,
        used_mib=-(-memory.used // MIB),
        free_mib=memory.free // MIB,
    )


def _memory(nvml: Any, handle: Any) -> Any:
    """The second form tells what the driver itself keeps apart from what is used."""
    try:
        return nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    except (AttributeError, TypeError, nvml.NVMLError):
        return nvml.nvmlDeviceGetMemoryInfo(handle)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _proc_meminfo(proc: Path) -> tuple[int | None, int | None]:
    """Total and available, in bytes."""
    try:
        lines = (proc / "meminfo").read_text().splitlines()
    except OSError:
        return None, None
    told = {
        key: int(words[0]) * 1_024
        for key, _, rest in (line.partition(":") for line in lines)
        if (words := rest.split()) and words[0].isdigit()
    }
    return told.get("MemTotal"), told.get("MemAvailable")


def _sysctl() -> tuple[int | None, int | None]:
    """macOS tells the total; what is available its own tools guess at differently."""
    try:
        told = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "hw.memsize"], capture_output=True, timeout=5, check=True
        )
        return int(told.stdout), None
    except (OSError, subprocess.SubprocessError, ValueError):
        return None, None


def _cgroup(root: Path, proc: Path) -> tuple[int | None, int | None]:
    """Limit and use of the tightest group that this process is in, in bytes; None: no limit."""
    tightest: tuple[int | None, int | None] = (None, None)
    for folder in _groups(root, proc):
        limit = _number(folder / "memory.max", folder / "memory.limit_in_bytes")
        # Version 1 says "no limit" with a number near 2**63: more than any machine has.
        if limit is not None and (tightest[0] is None or limit < tightest[0]):
            used = _number(folder / "memory.current", folder / "memory.usage_in_bytes")
            tightest = (limit, max(0, (used or 0) - _cached_files(folder)))
    return tightest


def _cached_files(folder: Path) -> int:
    """What a group holds of files only, and gives back when it is needed: the weights of a model
    that has gone would else count as used for ever."""
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    words = (line.split() for line in lines)
    told = {key: int(value) for key, value in words if value.isdigit()}
    of_children = ("total_inactive_file", "total_active_file")
    keys = of_children if of_children[0] in told else ("inactive_file", "active_file")
    return sum(told.get(key, 0) for key in keys)


def _groups(root: Path, proc: Path) -> list[Path]:
    """From the process's own group up to the root, of either version; in a container the root is
    its own."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    folders = [root, root / "memory"]
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        base = root if not controllers else root / "memory"
        if controllers and "memory" not in controllers.split(","):
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        folders += [base.joinpath(*parts[:length]) for length in range(1, len(parts) + 1)]
    return folders


def _number(*files: Path) -> int | None:
    for file in files:
        try:
            text = file.read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            return int(text)
    return None
