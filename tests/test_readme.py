"""The README says only what is there: targets, commands, settings, files, messages."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.settings import REPOSITORY, Settings

README = (REPOSITORY / "README.md").read_text("utf-8")
SOURCES = [
    path.read_text("utf-8")
    for folder in ("contracts", "orchestrator", "cli", "services", "tools", "models")
    for path in (REPOSITORY / folder).rglob("*.py")
]
# A Python string literal may be broken over lines: join its pieces before looking for a message.
JOINED = [re.sub(r'"\s*\n\s*f?"', "", source) for source in SOURCES]


def messages() -> list[str]:
    table = README.split("## When something fails")[1].split("## ")[0]
    return re.findall(r"^\| `([^`]+)` \|", table, re.M)


@pytest.mark.parametrize(
    "target", sorted(set(re.findall(r"\bmake ([a-z]+(?:-[a-z]+)*)\b", README)))
)
def test_every_make_target_exists(target: str) -> None:
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    assert re.search(rf"^{target}:", makefile, re.M)


@pytest.mark.parametrize("command", sorted(set(re.findall(r"\bvariet ([a-z]+)\b", README))))
def test_every_command_exists(command: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "cli", command, "--help"], capture_output=True, cwd=REPOSITORY
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_every_linked_file_exists(path: str) -> None:
    assert (REPOSITORY / path).exists()


@pytest.mark.parametrize("message", messages())
def test_every_message_is_one_that_the_program_prints(message: str) -> None:
    pieces = [piece.strip() for piece in message.split("…") if piece.strip()]
    found = [s for s in JOINED if all(piece in re.sub(r"\{[^{}]*\}", "…", s) for piece in pieces)]
    assert found, f"no source prints {message!r}"


def test_the_settings_tables_are_up_to_date() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "contracts.settings_table", "--check"],
        capture_output=True,
        cwd=REPOSITORY,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr


def test_every_setting_is_read_somewhere() -> None:
    used = "\n".join(SOURCES)
    unread = [
        n for n in Settings.model_fields if not re.search(rf"settings\.{n}\b|self\.{n}\b", used)
    ]
    assert unread == []


def test_the_repository_has_the_files_that_a_project_needs() -> None:
    for name in ("LICENSE", "CHANGELOG.md", ".env.example", "requirements.lock", ".ci/run"):
        assert Path(REPOSITORY / name).is_file(), name
