"""What make says before anything is there."""

import os
import re
import subprocess
from pathlib import Path

import pytest

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


def test_a_stack_that_does_not_get_healthy_is_shown_and_fails(tmp_path: Path) -> None:
    program = tmp_path / "docker"
    program.write_text('#!/bin/sh\ncase "$*" in *" up "*) exit 1;; esac\necho "docker $*"\n')
    program.chmod(0o755)
    env = tmp_path / "host.env"
    env.touch()
    done = make("up", f"ENV_FILE={env}", path=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode != 0
    assert " ps --all " in done.stdout
    assert "make logs S=NAME, make doctor" in done.stderr


def test_a_restore_wants_a_file() -> None:
    done = make("-o", "env", "restore")
    assert done.returncode != 0
    assert "Which one? make restore FILE=" in done.stderr
