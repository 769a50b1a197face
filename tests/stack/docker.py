"""The Docker engine, by its command line."""

import os
import shutil
import subprocess
from collections.abc import Mapping

from contracts.settings import REPOSITORY

ENGINE = REPOSITORY / ".ci/docker-engine"
BUILD_TIMEOUT_S = 600.0


def run(*words: str, env: Mapping[str, str] | None = None, check: bool = True) -> str:
    """Both outputs of a command in the repository's folder; fails with them."""
    done = subprocess.run(
        words,
        cwd=REPOSITORY,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_TIMEOUT_S,
    )
    assert not check or done.returncode == 0, f"{' '.join(words)}: {done.stdout[-4_000:]}"
    return done.stdout


def docker(*words: str, check: bool = True) -> str:
    return run("docker", *words, check=check).strip()


def lacking() -> str:
    """What this machine lacks for these tests; empty when nothing."""
    if os.geteuid() != 0:
        return "root"
    for program in ("docker", "debootstrap", "ip", "losetup", "mkfs.ext4"):
        if not shutil.which(program):
            return f"the program {program}"
    for words in (("info",), ("compose", "version"), ("buildx", "version")):
        if subprocess.run(("docker", *words), capture_output=True).returncode:
            return f"`docker {' '.join(words)}` that answers"
    return ""


def restartable() -> bool:
    """Whether the engine is one that these tests may restart: `.ci/docker-engine` started it."""
    return "ENGINE_DIR" in os.environ
