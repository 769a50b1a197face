"""This installation: its Python, packages, settings, folders, model and running orchestrator."""

import os
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from importlib import metadata, util
from pathlib import Path

from cli.address import connect
from cli.backup import unfinished
from cli.doctor.check import Check
from cli.doctor.finding import Finding, Status, failure, ok, told, warning
from cli.text import size
from contracts.chat import Health
from contracts.errors import VarietError
from contracts.settings import REPOSITORY, Settings

OLDEST_PYTHON = (3, 11)
LOW_BYTES = 2_000_000_000
LEAST_BYTES = 200_000_000
# Every byte of a model is read, and it may have tens of gigabytes.
VERIFY_S = 300.0
PIN = re.compile(r"^([A-Za-z0-9_.-]+)==([^ ;\\]+) *(;)?", re.MULTILINE)
LIVE: dict[str, Status] = {"ok": "ok", "off": "ok", "degraded": "warning", "down": "failure"}


def command(embedded: bool) -> Iterator[Check]:
    """What every command of this checkout needs; `embedded`, what the engine and index do too."""
    yield Check("restore", check_restore)
    yield Check("python", lambda: [check_python()])
    lock = REPOSITORY / "requirements.lock"
    yield Check("environment", lambda: [check_environment(lock, Path(sys.prefix))])
    if embedded:
        yield Check("engine library", lambda: [check_library("engine", "xllamacpp")])
        yield Check("index library", lambda: [check_library("index", "qdrant_edge")])


def stack(settings: Settings, url: str | None) -> Iterator[Check]:
    """The parts of the embedded stack."""
    yield Check("state", lambda: [check_state(settings.state_dir)])
    yield Check("model", lambda: [check_model(settings)], VERIFY_S)
    yield Check("orchestrator", lambda: check_port_and_orchestrator(settings, url))


def check_restore() -> list[Finding]:
    """Said only where one has not ended."""
    unfinished.refuse()
    return []


def check_python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= OLDEST_PYTHON:
        return ok("python", f"{version} at {sys.executable}")
    return failure(
        "python", f"{version} is too old.", "Install Python 3.11 or newer; then make env"
    )


def check_environment(lock: Path, prefix: Path) -> Finding:
    """Whether this environment holds what the lock says, in the versions that it says."""
    remedy = "Bring it up to date with: make env"
    if not lock.is_file():
        return failure("environment", f"{lock} is missing.", "Restore it from git.")
    text = lock.read_text(encoding="utf-8")
    pins: dict[str, list[tuple[str, bool]]] = {}
    for name, version, marker in PIN.findall(text):
        pins.setdefault(name, []).append((version, bool(marker)))
    wrong = [found for name, given in pins.items() if (found := _differs(name, given))]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        return failure("environment", f"{', '.join(wrong[:3])}{more}.", remedy)
    stamp = prefix / "requirements.lock"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != text:
        detail = f"{prefix} was not made by make env, or the lock changed since."
        return warning("environment", detail, remedy)
    return ok("environment", f"in sync with {lock.name}")


def check_library(part: str, module: str) -> Finding:
    if util.find_spec(module):
        return ok(f"{part} library", f"{module} is installed")
    return failure(f"{part} library", f"{module} is not installed.", "Install it with: make env")


def check_port_and_orchestrator(settings: Settings, url: str | None) -> Iterator[Finding]:
    live = list(check_orchestrator(url))
    if live[0].status != "ok" and url is None and "VARIET_URL" not in os.environ:
        yield check_port(settings)
    yield from live


def check_state(folder: Path) -> Finding:
    """Whether the state folder, or the one that it will be made in, can be written and has room."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        return failure("state", f"{existing} cannot be written.", "Change its owner, or STATE_DIR.")
    free = shutil.disk_usage(existing).free
    detail = f"{folder}, {size(free)} free"
    if free < LEAST_BYTES:
        return failure("state", detail, "Free some disk space.")
    if free < LOW_BYTES:
        return warning("state", detail, "Free some disk space: models need gigabytes.")
    return ok("state", detail)


def check_port(settings: Settings) -> Finding:
    """Whether `make run` could listen where the settings say."""
    try:
        with socket.create_server((settings.bind_addr, settings.port)):
            return ok("port", f"{settings.port} is free")
    except OSError as error:
        return failure(
            "port",
            f"{settings.bind_addr}:{settings.port}: {error.strerror}.",
            "Stop the program that uses it, or set PORT to another one.",
        )


def check_model(settings: Settings) -> Finding:
    from models.choice import choose_model

    try:
        choice = choose_model(settings, verify=True)
    except VarietError as error:
        return told("model", error)
    return ok("model", choice.sentence)


def check_orchestrator(
    url: str | None, idle: Callable[[str, str, str], Finding] = warning, start: str = ""
) -> Iterator[Finding]:
    """The running orchestrator and, as it reports them, its parts. That it does not run is `idle`,
    with `start` as the remedy unless `url` names another one."""
    try:
        with connect(url, timeout=7) as client:
            health = Health.model_validate(client.get("/health"))
    except VarietError as error:
        if error.code == "not_running":
            yield idle("orchestrator", error.message, (not url and start) or error.remedy)
        else:
            yield told("orchestrator", error)
        return
    yield ok("orchestrator", f"answers at {client.url}: {health.status}")
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
