"""Both stacks as Compose sees them: rendered by Compose itself, which needs no engine for it."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cli.host.dotenv import EnvFile, Section
from contracts.settings import REPOSITORY

Config = dict[str, Any]
PLUGINS = (
    "/usr/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    str(Path.home() / ".docker/cli-plugins"),
)

# No other of this process's variables: they would win over the file's.
PASSED = ("PATH", "HOME", "DOCKER_CONFIG")


class Refused(Exception):
    """Compose's own words."""


@cache
def program() -> tuple[str, ...]:
    """Compose as a command. Skips the test where there is none."""
    docker = shutil.which("docker")
    if docker and _runs(docker, "compose"):
        return (docker, "compose")
    own = shutil.which("docker-compose", path=os.pathsep.join((os.environ["PATH"], *PLUGINS)))
    if own and _runs(own):
        return (own,)
    pytest.skip("Docker Compose 2 is missing: neither `docker compose` nor docker-compose runs")


def render(file: Path, settings: Mapping[str, str], folder: Path) -> Config:
    """The stack in `file` with those settings, written to a `.env` in `folder` as `variet init`
    writes it. Raises Refused when Compose fails, and when it warns."""
    env_file = folder / "rendered.env"
    EnvFile().with_sections((Section("Settings", dict(settings)),)).write(env_file)
    words = ("--project-directory", REPOSITORY, "--env-file", env_file, "-f", file)
    done = subprocess.run(
        [*program(), *words, "config", "--format", "json"],
        env={name: os.environ[name] for name in PASSED if name in os.environ},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
    )
    if done.returncode or done.stderr:
        raise Refused(done.stderr.strip())
    config: Config = json.loads(done.stdout)
    return config


def _runs(*command: str) -> bool:
    done = subprocess.run([*command, "version", "--short"], capture_output=True, text=True)
    return done.returncode == 0 and done.stdout.lstrip("v").split(".")[0] >= "2"
