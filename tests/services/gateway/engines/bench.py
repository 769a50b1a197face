"""A process host with the fake engine, and what its tests look at."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contracts.manifest import ManifestEntry, ModelSource
from models.store import Store
from services.gateway.catalogue import EngineSpec
from services.gateway.engines.processes import ProcessHost, ProcessPlace
from services.gateway.engines.records import Record, read_record

FAKE = (sys.executable, "-m", "tests.support.fake_engine")
PATIENCE_S = 60.0


def entry(name: str = "m", **more: Any) -> ManifestEntry:
    given: dict[str, Any] = {
        "id": name,
        "about": "a test",
        "kind": "chat",
        "engine": "llama.cpp",
        "source": ModelSource(url=f"https://hub.test/{name}.gguf"),
        "licence": "MIT",
        "context": 4096,
        "vram_mib": 0,
        "ram_mib": 64,
    }
    return ManifestEntry(**{**given, **more})


def spec(name: str = "m", **more: Any) -> EngineSpec:
    of_entry = {key: more.pop(key) for key in ("kind", "engine", "source") if key in more}
    given: dict[str, Any] = {
        "name": name,
        "entry": entry(name.partition("@")[0], **of_entry),
        "tiers": ("fast",),
        "aliases": (),
        "context": 4096,
        "kv_cache": "f16",
        "flags": (),
        "cards": (),
    }
    return EngineSpec(**{**given, **more})


class Bench:
    """A gateway's folder with models; `host` is a new gateway's each time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "engines"
        self.store = Store(folder / "models")
        self.journal = folder / "journal"
        self.command = FAKE

    def model(self, name: str = "m", **behaviour: Any) -> Path:
        path = self.store.path(entry(name))
        assert path is not None
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"GGUF")
        self.behave(name, **behaviour)
        return path

    def behave(self, name: str = "m", **behaviour: Any) -> None:
        path = self.store.path(entry(name))
        assert path is not None
        told = {"journal": str(self.journal), **behaviour}
        path.with_name(f"{path.name}.faults.json").write_text(json.dumps(told))

    def host(self, **more: Any) -> ProcessHost:
        given: dict[str, Any] = {
            "folder": self.folder,
            "command": self.command,
            "key": "sk-engines",
            "store": self.store,
            "load_timeout_s": PATIENCE_S,
        }
        return ProcessHost(ProcessPlace(**{**given, **more}))

    def events(self) -> list[dict[str, Any]]:
        if not self.journal.exists():
            return []
        return [json.loads(line) for line in self.journal.read_text().splitlines()]

    def count(self, event: str) -> int:
        return sum(told["event"] == event for told in self.events())

    def record(self, name: str = "m") -> Record:
        found = read_record(self.folder / f"{name}.json")
        assert found is not None
        return found

    def left_behind(self) -> list[int]:
        """Processes of this folder that still run."""
        mark = f"VARIET_ENGINES={self.folder.resolve()}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except OSError:
                continue
        return found

    def end(self) -> None:
        for pid in self.left_behind():
            os.kill(pid, 9)


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


class Phases:
    """What `on_phase` was told."""

    def __init__(self) -> None:
        self.told: list[tuple[float | None, str]] = []

    def __call__(self, progress: float | None, words: str) -> None:
        self.told.append((progress, words))
