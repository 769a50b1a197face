"""`variet models`: the catalogue, what is here, and fetching more."""

import json
import os
import sys

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress import TransferSpeedColumn as SpeedColumn

from cli.show import line
from cli.text import size
from contracts.errors import NotFound
from contracts.manifest import PACKAGE, Manifest, ManifestEntry
from contracts.settings import load_settings
from models.choice import DEMO
from models.manifest import load_manifest
from models.store import Pulled, Store
from models.transfer import Progress as Step

MIB = 2**20


def list_models(as_json: bool) -> None:
    manifest, store = load_manifest(), Store.of(load_settings())
    if as_json:
        entries = [
            entry.model_dump(mode="json") | {"here": store.has(entry)} for entry in manifest.models
        ]
        sys.stdout.write(json.dumps(entries, indent=2) + "\n")
        return
    console = Console()
    _print(list(manifest.models), store, console)
    line(console, f"Pulled models lie in {store.root}. Fetch one: variet models pull NAME", "dim")


def pull(name: str) -> None:
    """Fetch a model; without a name, the choices and the one that suits this machine."""
    manifest, store, console = load_manifest(), Store.of(load_settings()), Console()
    if not name:
        _offer(manifest, store, console)
        return
    entry = manifest.get(name)
    if entry is None:
        choices = ", ".join(e.id for e in manifest.models if e.source.is_web)
        raise NotFound(
            "unknown_model", f"The manifest has no model {name!r}.", f"Choose one of: {choices}."
        )
    line(console, f"{entry.id}: {entry.about}")
    line(console, f"size {_bytes(entry)} · licence {entry.licence} · needs {needs(entry)}")
    line(console, f"from {entry.source.url}", "dim")
    pulled = _fetch(store, entry, console)
    line(console, f"{pulled.path} is here and verified (SHA-256 by the {pulled.trusted}).", "green")
    if entry.kind == "chat":
        line(console, f"Use it: MODEL_ID={entry.id} make run")


def recommended(manifest: Manifest, memory_mib: int) -> ManifestEntry | None:
    """The most preferred chat model for the CPU that takes an eighth of the memory at most: such
    a machine has the cores for it, too. If there is none, the smallest one."""
    fitting = [
        entry
        for entry in manifest.models
        if entry.kind == "chat" and entry.source.is_web and entry.vram_mib == 0
    ]
    for entry in fitting:
        if entry.ram_mib <= memory_mib // 8:
            return entry
    return min(fitting, key=lambda entry: entry.ram_mib, default=None)


def needs(entry: ManifestEntry) -> str:
    memory = f"{size(entry.ram_mib * MIB)} of memory"
    return f"{size(entry.vram_mib * MIB)} on cards, {memory}" if entry.vram_mib else memory


def _offer(manifest: Manifest, store: Store, console: Console) -> None:
    entries = [entry for entry in manifest.models if entry.kind == "chat" and entry.id != DEMO]
    _print(entries, store, console)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    suits = recommended(manifest, memory // MIB)
    if suits:
        line(console, f"For this machine ({size(memory)} of memory): {suits.about}")
        line(console, f"  variet models pull {suits.id}", "bold")


def _print(entries: list[ManifestEntry], store: Store, console: Console) -> None:
    width = max(len(entry.id) for entry in entries) + 2
    for entry in entries:
        line(console, f"{entry.id:<{width}}", "bold", end="")
        line(console, f"{_state(entry, store)} · {_bytes(entry)} · {needs(entry)}", end="")
        line(console, f" · {entry.licence} · {entry.kind}, {entry.engine}")
        line(console, f"{'':<{width}}{entry.about}", "dim")


def _state(entry: ManifestEntry, store: Store) -> str:
    if store.has(entry):
        return "here"
    if entry.source.url.startswith(PACKAGE):
        return "installed"
    return "not here" if entry.source.is_web else "fetched by its engine"


def _bytes(entry: ManifestEntry) -> str:
    return size(entry.source.bytes) if entry.source.bytes else "size unknown"


def _fetch(store: Store, entry: ManifestEntry, console: Console) -> Pulled:
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        SpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("fetching", total=entry.source.bytes)

        def show(step: Step) -> None:
            bar.update(task, description=step.stage, completed=step.done, total=step.total)

        return store.pull(entry, show)
