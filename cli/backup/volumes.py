"""The named volumes that our own containers write to, packed and unpacked inside them: by their
user, with their Python, while nothing else works on the volume."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.backup import tree
from cli.backup.archive import Reader, Writer
from cli.backup.manifest import Part
from cli.compose import Compose

OURS = ("orchestrator", "workspace", "logs", "calibration")
SOURCE = Path(tree.__file__)


@dataclass(frozen=True)
class Volume:
    """`name` is the stack's own, without the project's; `target` where `service` has it."""

    name: str
    service: str
    target: str


def volumes(configuration: dict[str, Any]) -> list[Volume]:
    """Those of our services that are writable, each once."""
    found: dict[str, Volume] = {}
    services = configuration.get("services", {})
    for service in (name for name in OURS if name in services):
        for mount in services[service].get("volumes", []):
            if mount.get("type") == "volume" and mount.get("source") and not mount.get("read_only"):
                found.setdefault(mount["source"], Volume(mount["source"], service, mount["target"]))
    return list(found.values())


def save(writer: Writer, compose: Compose, volume: Volume) -> None:
    name = f"volumes/{volume.name}.tar.gz"
    with writer.part(name, "volume", volume.name) as sink:
        compose.read(*_words(volume, "pack"), into=sink)


def restore(reader: Reader, part: Part, compose: Compose, volume: Volume) -> None:
    """Put the part in the place of what the volume holds, which is kept aside in it."""
    with reader.open(part) as content:
        compose.feed(*_words(volume, "unpack"), source=content)


def settle(compose: Compose, volume: Volume) -> None:
    compose.call(*_words(volume, "settle"))


def undo(compose: Compose, volume: Volume) -> None:
    compose.call(*_words(volume, "undo"))


def _words(volume: Volume, verb: str) -> list[str]:
    source = SOURCE.read_text(encoding="utf-8")
    run = ("run", "--rm", "--no-deps", "-T", "--entrypoint", "python")
    return [*run, volume.service, "-c", source, verb, volume.target]
