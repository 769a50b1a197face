"""Not run on a GPU: the library's answers are recorded ones."""

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from contracts.gateway_settings import GatewaySettings
from services.gateway.memory.readings import (
    CardReading,
    RamReading,
    SystemReadings,
    system_readings,
)

MIB = 2**20
linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


@dataclass
class Memory:
    total: int
    used: int
    free: int


class NVMLError(Exception):
    pass


@dataclass
class RecordedNvml:
    """Answers as nvidia-ml-py 13 gives them for an RTX 3060, and what was asked."""

    second_form: bool = True
    as_bytes: bool = False
    lost: bool = False
    asked: list[str] = field(default_factory=list)
    NVMLError = NVMLError
    nvmlMemory_v2 = 33_554_472

    def nvmlInit(self) -> None:
        self.asked.append("init")

    def nvmlShutdown(self) -> None:
        self.asked.append("shutdown")

    def nvmlDeviceGetCount(self) -> int:
        if self.lost:
            raise NVMLError("GPU is lost")
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str | bytes:
        uuid = "GPU-9a3f1c52-4d0e-7b16-55e8-0c1d2e3f4a5b"
        return uuid.encode() if self.as_bytes else uuid

    def nvmlDeviceGetName(self, handle: int) -> str | bytes:
        name = "NVIDIA GeForce RTX 3060"
        return name.encode() if self.as_bytes else name

    def nvmlDeviceGetMemoryInfo(self, handle: int, version: int | None = None) -> Memory:
        if version is not None and not self.second_form:
            raise NVMLError("Argument Version Mismatch")
        reserved = 0 if version else 383_000_000
        used = 1_234_567_890 + reserved
        return Memory(12_884_901_888, used, 12_884_901_888 - 1_234_567_890 - 383_000_000)


EXPECTED = CardReading(
    index=0,
    uuid="GPU-9a3f1c52-4d0e-7b16-55e8-0c1d2e3f4a5b",
    name="NVIDIA GeForce RTX 3060",
    total_mib=12_288,
    used_mib=1_178,
    free_mib=10_745,
)


@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_card_is_read_as_the_driver_tells_it(as_bytes: bool) -> None:
    nvml = RecordedNvml(as_bytes=as_bytes)
    readings = SystemReadings(lambda: nvml)
    assert readings.cards() == (EXPECTED,)
    assert readings.cards() == (EXPECTED,)
    assert nvml.asked == ["init"]


def test_an_old_driver_is_asked_in_the_old_form() -> None:
    told = SystemReadings(lambda: RecordedNvml(second_form=False)).cards()
    assert told is not None
    assert told[0].used_mib == 1_543


def test_no_driver_is_no_error_and_is_looked_for_again_later() -> None:
    now, tries = 0.0, 0

    def absent() -> RecordedNvml:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise NVMLError("NVML Shared Library Not Found")
        return RecordedNvml()

    readings = SystemReadings(absent, now=lambda: now)
    assert readings.cards() is None
    assert readings.cards() is None
    assert tries == 1
    now = 31.0
    assert readings.cards() is None
    now = 62.0
    assert readings.cards() == (EXPECTED,)


def test_a_driver_that_breaks_off_is_begun_anew() -> None:
    now = 0.0
    nvml = RecordedNvml()
    readings = SystemReadings(lambda: nvml, now=lambda: now)
    assert readings.cards() is not None
    nvml.lost = True
    assert readings.cards() is None
    nvml.lost, now = False, 31.0
    assert readings.cards() == (EXPECTED,)
    assert nvml.asked == ["init", "shutdown", "init"]


def test_this_machine_is_read_without_an_error() -> None:
    readings = system_readings(GatewaySettings(engine_backend="process"))
    cards = readings.cards()
    assert cards is None or all(card.total_mib > 0 for card in cards)
    ram = readings.ram()
    assert ram is not None
    assert ram.total_mib > 256


def proc(folder: Path, cgroup: str = "0::/\n") -> Path:
    (folder / "self").mkdir(parents=True)
    (folder / "meminfo").write_text(
        "MemTotal:       16384000 kB\nMemFree: 1 kB\nMemAvailable:    8192000 kB\nHugePages: 0\n"
    )
    (folder / "self/cgroup").write_text(cgroup)
    return folder


@linux
def test_main_memory_is_that_of_the_system(tmp_path: Path) -> None:
    readings = SystemReadings(proc=proc(tmp_path / "proc"), cgroups=tmp_path / "none")
    assert readings.ram() == RamReading(16_000, 8_000)
    assert SystemReadings(proc=tmp_path / "nothing", cgroups=None).ram() is None


@linux
@pytest.mark.parametrize(
    ("cgroup", "folder", "limit", "used"),
    [
        ("0::/\n", "", "memory.max", "memory.current"),
        ("0::/a.slice/b.scope\n", "a.slice", "memory.max", "memory.current"),
        (
            "7:cpu:/x\n4:memory:/docker/1\n",
            "memory/docker/1",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
        ),
    ],
)
def test_a_lower_limit_of_a_group_counts(
    tmp_path: Path, cgroup: str, folder: str, limit: str, used: str
) -> None:
    root = tmp_path / "cgroup"
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / limit).write_text(f"{4_000 * MIB}\n")
    (root / folder / used).write_text(f"{1_500 * MIB}\n")
    system = proc(tmp_path / "proc", cgroup)
    assert SystemReadings(proc=system, cgroups=root).ram() == RamReading(4_000, 2_500)
    # Engines in containers of their own are not in this process's group.
    assert SystemReadings(proc=system, cgroups=None).ram() == RamReading(16_000, 8_000)


@linux
@pytest.mark.parametrize(
    "told",
    [
        "anon 524288000\ninactive_file 838860800\nactive_file 209715200\n",
        "cache 1\ninactive_file 7\ntotal_inactive_file 1048576000\ntotal_active_file 0\n",
    ],
)
def test_files_that_a_group_has_read_are_not_memory_that_it_lacks(
    tmp_path: Path, told: str
) -> None:
    root = tmp_path / "cgroup"
    root.mkdir()
    (root / "memory.max").write_text(f"{4_000 * MIB}\n")
    (root / "memory.current").write_text(f"{1_500 * MIB}\n")
    (root / "memory.stat").write_text(told)
    readings = SystemReadings(proc=proc(tmp_path / "proc"), cgroups=root)
    assert readings.ram() == RamReading(4_000, 3_500)


@linux
@pytest.mark.parametrize("limit", ["max", "9223372036854771712"])
def test_no_limit_is_none(tmp_path: Path, limit: str) -> None:
    root = tmp_path / "cgroup"
    root.mkdir()
    (root / "memory.max").write_text(limit)
    readings = SystemReadings(proc=proc(tmp_path / "proc"), cgroups=root)
    assert readings.ram() == RamReading(16_000, 8_000)


def test_neither_numpy_nor_the_drivers_library_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys; import services.gateway.memory.needs, services.gateway.memory.devices,"
        " services.gateway.memory.fit_params, services.gateway.memory.load_log;"
        " sys.exit(any(m in sys.modules for m in ('numpy', 'pynvml', 'gguf')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
