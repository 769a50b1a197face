"""What make says before anything is there."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from contracts.settings import REPOSITORY

TEXT = (REPOSITORY / "Makefile").read_text("utf-8")
OF_HOSTS = (
    "init up down restart logs ps smoke doctor models pull update backup restore clean test-stack"
)


def make(*words: str, path: str | None = None) -> "subprocess.CompletedProcess[str]":
    keep = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "VARIET_ENV_FILE")}
    return subprocess.run(
        ["make", "-s", *words],
        cwd=REPOSITORY,
        env=keep | ({"PATH": path} if path else {}),
        capture_output=True,
        text=True,
    )


def test_help_lists_every_target_with_what_it_does() -> None:
    listed = set(re.findall(r"^  make ([a-z-]+) ", make("help").stdout, re.M))
    targets = set(re.findall(r"^([a-z-]+):", TEXT, re.M)) - {"host", "whole"}
    assert listed == targets >= set(OF_HOSTS.split())


@pytest.fixture
def docker(tmp_path: Path) -> str:
    """A PATH with a `docker` that prints what it was asked."""
    program = tmp_path / "docker"
    program.write_text('#!/bin/sh\necho "docker $*"\n')
    program.chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


@pytest.mark.parametrize("target", ["up", "down", "restart", "ps", "pull", "logs"])
def test_without_settings_the_first_step_is_named(target: str, docker: str, tmp_path: Path) -> None:
    done = make(target, f"ENV_FILE={tmp_path / 'none.env'}", path=docker)
    assert done.returncode != 0
    assert "this host has no role yet. Give it one: make init" in done.stderr
    assert "docker compose" not in done.stdout


def test_the_file_of_settings_goes_to_compose(docker: str, tmp_path: Path) -> None:
    env = tmp_path / "brain.env"
    env.touch()
    said = make("up", f"ENV_FILE={env}", "S=llamacpp", path=docker).stdout.splitlines()
    assert said[0] == (
        f"docker compose --env-file {env} up --detach --build --wait --wait-timeout 1800"
        " --remove-orphans llamacpp"
    )
    assert re.fullmatch(r"Healthy after \d+ s\. Next: make smoke", said[-1])


@pytest.mark.parametrize("target", ["up", "restart", "update"])
def test_nothing_is_started_on_what_a_restore_left_half_done(
    target: str, docker: str, tmp_path: Path
) -> None:
    env = tmp_path / "hands.env"
    env.touch()
    (tmp_path / "hands.env.restoring").write_text("A restore of b.tar has not ended.\n")
    done = make(target, f"ENV_FILE={env}", path=docker)
    assert done.returncode != 0
    assert "A restore of b.tar has not ended." in done.stderr
    assert "docker compose" not in done.stdout
    assert make("down", f"ENV_FILE={env}", path=docker).returncode == 0


SICK = """#!/bin/sh
case "$*" in
  *" up "*) exit 1;;
  *State*) echo orchestrator restarting/; echo postgres running/healthy
           echo qdrant running/unhealthy;;
  *" ps "*) echo 'postgres healthy';;
  *" logs "*) echo "last words of ${*##* }";;
esac
"""


def test_the_files_that_containers_read_are_readable_in_a_private_checkout(tmp_path: Path) -> None:
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    found = re.search(r"(?m)^MOUNTED := (.+)$", makefile)
    assert found
    stack = yaml.safe_load((REPOSITORY / "docker-compose.workstation.yml").read_text("utf-8"))
    mounts = [m for one in stack["services"].values() for m in one.get("volumes", [])]
    ours = {
        m["source"] for m in mounts if isinstance(m, dict) and m["source"][:11] == "./services/"
    }
    assert ours == {f"./{name}" for name in found[1].split()}
    (tmp_path / "Makefile").write_text(makefile, "utf-8")
    (tmp_path / ".env").touch()
    for name in found[1].split():
        file = tmp_path / name
        file.parent.mkdir(parents=True)
        file.touch(0o600)
    (tmp_path / "docker").touch(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    words = ["make", "-C", str(tmp_path), "host"]
    subprocess.run(words, check=True, env={"PATH": path}, capture_output=True, timeout=60)
    assert {oct((tmp_path / name).stat().st_mode)[-3:] for name in found[1].split()} == {"644"}


def test_a_stack_that_does_not_get_healthy_is_shown_and_fails(tmp_path: Path) -> None:
    program = tmp_path / "docker"
    program.write_text(SICK)
    program.chmod(0o755)
    env = tmp_path / "host.env"
    env.touch()
    done = make("up", f"ENV_FILE={env}", path=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode != 0
    assert "postgres healthy" in done.stdout
    assert "-- orchestrator:\nlast words of orchestrator\n" in done.stderr
    assert "-- qdrant:\nlast words of qdrant\n" in done.stderr
    assert "-- postgres:" not in done.stderr
    assert "make logs S=NAME, make doctor" in done.stderr


def test_a_restore_wants_a_file() -> None:
    done = make("-o", "env", "restore")
    assert done.returncode != 0
    assert "Which one? make restore FILE=" in done.stderr
