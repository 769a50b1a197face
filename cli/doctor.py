"""`variet doctor`: looks at each part and says what to do about it."""

import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Literal

from rich.console import Console

from cli.address import connect
from cli.show import line
from cli.text import exact, size
from contracts.chat import Health
from contracts.errors import VarietError
from contracts.settings import REPOSITORY, Settings, load_settings

Status = Literal["ok", "warning", "failure"]
MARKS: dict[Status, tuple[str, str]] = {
    "ok": ("✓", "green"),
    "warning": ("!", "yellow"),
    "failure": ("✗", "red"),
}
OLDEST_PYTHON = (3, 11)
LOW_BYTES = 2_000_000_000
LEAST_BYTES = 200_000_000
PIN = re.compile(r"^([A-Za-z0-9_.-]+)==([^ ;\\]+) *(;)?", re.MULTILINE)
LIVE: dict[str, Status] = {"ok": "ok", "off": "ok", "degraded": "warning", "down": "failure"}


@dataclass(frozen=True)
class Finding:
    """What is known of one part. `remedy` is empty when nothing needs to be done."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


def doctor(as_json: bool, url: str | None) -> int:
    """Returns the exit status: 1 if any part is a failure."""
    findings = list(examine(url))
    failed = any(one.status == "failure" for one in findings)
    if as_json:
        report = {"status": "failure" if failed else "ok", "checks": list(map(asdict, findings))}
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
        return int(failed)
    console = Console()
    width = max(len(one.name) for one in findings) + 2
    for one in findings:
        mark, style = MARKS[one.status]
        line(console, f"{mark} {one.name:<{width}}", style, end="")
        line(console, exact(one.detail))
        if one.remedy:
            line(console, f"  {'':<{width}}→ {exact(one.remedy)}", style)
    return int(failed)


def examine(url: str | None) -> Iterator[Finding]:
    """Every finding, in the order in which a person would mend them."""
    yield check_python()
    yield check_environment(REPOSITORY / "requirements.lock", Path(sys.prefix))
    yield check_library("engine", "xllamacpp")
    yield check_library("index", "qdrant_edge")
    try:
        settings = load_settings()
    except VarietError as error:
        yield Finding("settings", "failure", error.message, error.remedy)
        return
    yield Finding("settings", "ok", "read from the environment and .env")
    yield check_state(settings.state_dir)
    yield check_model(settings)
    live = list(check_orchestrator(url))
    if live[0].status != "ok" and url is None and "VARIET_URL" not in os.environ:
        yield check_port(settings)
    yield from live


def check_python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= OLDEST_PYTHON:
        return Finding("python", "ok", f"{version} at {sys.executable}")
    return Finding(
        "python", "failure", f"{version} is too old.", "Install Python 3.11 or newer; then make env"
    )


def check_environment(lock: Path, prefix: Path) -> Finding:
    """Whether this environment holds what the lock says, in the versions that it says."""
    remedy = "Bring it up to date with: make env"
    if not lock.is_file():
        return Finding("environment", "failure", f"{lock} is missing.", "Restore it from git.")
    text = lock.read_text(encoding="utf-8")
    pins: dict[str, list[tuple[str, bool]]] = {}
    for name, version, marker in PIN.findall(text):
        pins.setdefault(name, []).append((version, bool(marker)))
    wrong = [found for name, given in pins.items() if (found := _differs(name, given))]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        return Finding("environment", "failure", f"{', '.join(wrong[:3])}{more}.", remedy)
    stamp = prefix / "requirements.lock"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != text:
        detail = f"{prefix} was not made by make env, or the lock changed since."
        return Finding("environment", "warning", detail, remedy)
    return Finding("environment", "ok", f"in sync with {lock.name}")


def check_library(part: str, module: str) -> Finding:
    if util.find_spec(module):
        return Finding(f"{part} library", "ok", f"{module} is installed")
    return Finding(
        f"{part} library", "failure", f"{module} is not installed.", "Install it with: make env"
    )


def check_state(folder: Path) -> Finding:
    """Whether the state folder, or the one that it will be made in, can be written and has room."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        return Finding(
            "state", "failure", f"{existing} cannot be written.", "Change its owner, or STATE_DIR."
        )
    free = shutil.disk_usage(existing).free
    detail = f"{folder}, {size(free)} free"
    if free < LEAST_BYTES:
        return Finding("state", "failure", detail, "Free some disk space.")
    if free < LOW_BYTES:
        return Finding("state", "warning", detail, "Free some disk space: models need gigabytes.")
    return Finding("state", "ok", detail)


def check_port(settings: Settings) -> Finding:
    """Whether `make run` could listen where the settings say."""
    try:
        with socket.create_server((settings.bind_addr, settings.port)):
            return Finding("port", "ok", f"{settings.port} is free")
    except OSError as error:
        return Finding(
            "port",
            "failure",
            f"{settings.bind_addr}:{settings.port}: {error.strerror}.",
            "Stop the program that uses it, or set PORT to another one.",
        )


def check_model(settings: Settings) -> Finding:
    from models.choice import choose_model

    try:
        choice = choose_model(settings, verify=True)
    except VarietError as error:
        return Finding("model", "failure", error.message, error.remedy)
    return Finding("model", "ok", choice.sentence)


def check_orchestrator(url: str | None) -> Iterator[Finding]:
    """The running orchestrator and, as it reports them, its parts."""
    try:
        with connect(url, timeout=10) as client:
            health = Health.model_validate(client.get("/health"))
    except VarietError as error:
        idle = error.code == "not_running"
        yield Finding("orchestrator", "warning" if idle else "failure", error.message, error.remedy)
        return
    yield Finding("orchestrator", "ok", f"answers at {client.url}: {health.status}")
    for name, check in health.checks.items():
        yield Finding(name, LIVE[check.status], check.detail, check.remedy or "")


def _differs(name: str, pins: list[tuple[str, bool]]) -> str | None:
    """`pins` holds versions, each with whether it is for some platforms or Pythons only."""
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        return None if all(conditional for _, conditional in pins) else f"{name} is missing"
    versions = [version for version, _ in pins]
    return None if installed in versions else f"{name} is {installed}, not {' or '.join(versions)}"
