"""What engines were seen to take when they were loaded, kept from one run of the gateway to the
next."""

import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from services.gateway.catalogue import EngineSpec

LOG = logging.getLogger(__name__)
VERSION = 1
# Each change of a configuration makes a new fingerprint; the oldest are forgotten.
MOST = 256
ASLEEP = "asleep"


class Learned:
    """Peak MiB by device, for an engine's fingerprint and the context that it was started with.

    The file is written whole and renamed, so that no reader sees a part of it. One that is damaged
    is put aside as NAME.broken; nothing but the memory of past loads is lost."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._peaks: dict[str, dict[str, int]] = self._read()

    def peak(self, spec: EngineSpec, context: int) -> dict[str, int]:
        """Empty: it was never loaded so."""
        return dict(self._peaks.get(_key(spec, context), {}))

    def asleep(self, spec: EngineSpec) -> dict[str, int]:
        """What it held while it slept."""
        return dict(self._peaks.get(_key(spec, ASLEEP), {}))

    def note(self, spec: EngineSpec, context: int, seen: Mapping[str, int]) -> dict[str, int]:
        """Keep what was seen, where it is more than before; returns the peak."""
        return self._note(_key(spec, context), seen)

    def note_asleep(self, spec: EngineSpec, seen: Mapping[str, int]) -> dict[str, int]:
        return self._note(_key(spec, ASLEEP), seen)

    def _note(self, key: str, seen: Mapping[str, int]) -> dict[str, int]:
        before = self._peaks.pop(key, {})
        devices = sorted(before.keys() | seen.keys())
        peak = {device: max(before.get(device, 0), seen.get(device, 0)) for device in devices}
        if not peak:
            return {}
        self._peaks[key] = peak
        while len(self._peaks) > MOST:
            del self._peaks[next(iter(self._peaks))]
        if peak != before:
            self._write()
        return dict(peak)

    def _read(self) -> dict[str, dict[str, int]]:
        try:
            return _checked(json.loads(self._path.read_text("utf-8")))
        except FileNotFoundError:
            return {}
        except OSError as error:
            LOG.warning("cannot be read", extra={"path": str(self._path), "error": str(error)})
            return {}
        except (ValueError, RecursionError) as error:
            broken = self._path.with_name(f"{self._path.name}.broken")
            LOG.warning(
                "was damaged and is begun anew",
                extra={"path": str(self._path), "kept": str(broken), "error": str(error)[:200]},
            )
            with suppress(OSError):
                self._path.replace(broken)
            return {}

    def _write(self) -> None:
        """A disk that is full costs the memory of this load, not the load."""
        part = self._path.with_name(f"{self._path.name}.{os.getpid()}.part")
        told = json.dumps({"version": VERSION, "peaks": self._peaks}, indent=1)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("w", encoding="utf-8") as file:
                file.write(told + "\n")
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._path)
        except OSError as error:
            LOG.warning("was not kept", extra={"path": str(self._path), "error": str(error)})
            with suppress(OSError):
                part.unlink()


def _key(spec: EngineSpec, context: int | str) -> str:
    return f"{spec.fingerprint}@{context}"


def _checked(told: Any) -> dict[str, dict[str, int]]:
    """Raises ValueError for anything that `_write` does not write."""
    peaks = told.get("peaks") if isinstance(told, dict) else None
    if not isinstance(peaks, dict) or told.get("version") != VERSION:
        raise ValueError("it holds no peaks of this version")
    for devices in peaks.values():
        if not isinstance(devices, dict):
            raise ValueError("a peak is no object")
        for device, mib in devices.items():
            if not isinstance(device, str) or type(mib) is not int or mib < 0:
                raise ValueError(f"{device}={mib} is no number of MiB")
    return peaks
