"""Docker's engine and Compose, as their clients tell them."""

import json
import re
from dataclasses import dataclass
from typing import Any

from cli.host.command import Runner

ENGINE_MIN = (25, 0)
COMPOSE_MIN = (2, 24)
VERSION = re.compile(r"(\d+)\.(\d+)(?:\.\d+)?")


@dataclass(frozen=True)
class Docker:
    """Versions as they were told; None: it is not here or does not answer, `problem` says why.
    `nvidia` says whether containers can be given NVIDIA's cards: by the runtime or by CDI."""

    engine: str | None = None
    compose: str | None = None
    nvidia: bool = False
    problem: str = ""
    compose_problem: str = ""

    @property
    def engine_fits(self) -> bool:
        return self.engine is not None and version(self.engine) >= ENGINE_MIN

    @property
    def compose_fits(self) -> bool:
        return self.compose is not None and version(self.compose) >= COMPOSE_MIN


def docker(run: Runner) -> Docker:
    """Ask the engine and the Compose plug-in. A refusal for want of rights is told as a problem."""
    told = run(("docker", "info", "--format", "{{json .}}"))
    info = _object(told.out)
    engine = str(info.get("ServerVersion") or "") or None
    refused = "; ".join(str(text) for text in info.get("ServerErrors") or ())
    problem = "" if engine else _said(refused or told.error) or "the Docker engine does not answer"
    plugin = run(("docker", "compose", "version", "--short"))
    compose = plugin.out.strip().removeprefix("v") if plugin.ok else ""
    return Docker(
        engine=engine,
        compose=compose or None,
        nvidia=_has_nvidia(info),
        problem=problem,
        compose_problem="" if compose else _plugin_problem(plugin.error),
    )


def _plugin_problem(error: str) -> str:
    # Without the plug-in, `docker` takes its name for a mistake and its flag for one of its own.
    if "unknown flag" in error or "is not a docker command" in error:
        return "the plug-in is not installed"
    return _said(error) or "Docker Compose does not answer"


def _said(error: str) -> str:
    """The first line, without the question that Docker adds."""
    return (
        error.partition("\n")[0].strip().removesuffix(" Is the docker daemon running?").rstrip(".")
    )


def version(text: str) -> tuple[int, int]:
    """Major and minor; (0, 0) of what is no version."""
    found = VERSION.search(text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _has_nvidia(info: dict[str, Any]) -> bool:
    runtimes = info.get("Runtimes") or {}
    devices = info.get("DiscoveredDevices") or ()
    return "nvidia" in runtimes or any(
        str(device.get("ID", "")).startswith("nvidia.com/gpu") for device in devices
    )


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
