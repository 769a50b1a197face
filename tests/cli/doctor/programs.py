"""Programs of this host in the place of which recorded words are printed."""

import json
import os
from pathlib import Path

import pytest

# What nvidia-smi writes with two RTX 3060 and a model loaded, in the order of cli.host.gpus.
CARDS = "\n".join(
    f"{n}, NVIDIA GeForce RTX 3060, GPU-{n}f2e3d4c-1111-2222-3333-444455556666, 580.95.05,"
    f" 12288, {free}, 8.6"
    for n, free in ((0, 912), (1, 610))
)


class Programs:
    """A folder that comes first in PATH."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder / "programs"
        self._folder.mkdir()
        monkeypatch.setenv("PATH", f"{self._folder}{os.pathsep}{os.environ['PATH']}")

    def docker(self, services: str = "", ps: str = "", info: str = "{}", error: str = "") -> None:
        """`docker` prints these; with `error`, it fails with that."""
        if error:
            self.add("docker", f"echo '{error}' >&2; exit 1")
            return
        for name, text in (("services", services), ("ps", ps), ("info", info)):
            (self._folder / f"{name}.txt").write_text(text + "\n" if text else "")
        self.add(
            "docker",
            'case "$*" in\n'
            f"    *config*) cat '{self._folder}/services.txt' ;;\n"
            f"    *' ps '*) cat '{self._folder}/ps.txt' ;;\n"
            f"    info*) cat '{self._folder}/info.txt' ;;\n"
            "    'image inspect'*) exit 0 ;;\n"
            "    'compose version'*) echo 2.40.3 ;;\n"
            '    *) echo "unexpected: $*" >&2; exit 64 ;;\n'
            "esac",
        )

    def add(self, name: str, body: str) -> None:
        program = self._folder / name
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)


def container(service: str, state: str = "running", health: str = "healthy") -> str:
    """A line of `docker compose ps --format json`."""
    return json.dumps({"Service": service, "State": state, "Health": health, "ExitCode": 137})
