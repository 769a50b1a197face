import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from dotenv import dotenv_values

from cli.host.dotenv import EnvFile, Section
from contracts.errors import SettingsError

HARD = [
    "plain",
    "",
    "two words",
    "a#b",
    "a #b",
    "$HOME and $$",
    'say "hi"',
    "it's",
    "it's #1",
    "--ctx-size 4096 --split-mode tensor",
    "a=b=c",
    " edges ",
    "für",
    "`id`",
    "$(id)",
    "{a: 1}",
    "%!&*()[]<>|;~^",
]
TEXT = "# mine\nexport A=1\n\nB='two words' # why\nC=3"


def test_lines_that_do_not_change_stay_as_they_are() -> None:
    same = EnvFile(TEXT).with_sections((Section("s", {"A": "1", "B": "two words", "C": "3"}),))
    assert same.text == TEXT


def test_a_changed_value_changes_its_line_only() -> None:
    text = EnvFile(TEXT).with_sections((Section("s", {"B": "three"}),)).text
    assert text == TEXT.replace("B='two words' # why", "B=three")


def test_a_new_name_joins_its_section_or_opens_one() -> None:
    text = EnvFile(TEXT).with_sections(
        (Section("s", {"C": "3", "D": "4"}), Section("t", {"E": "5"}))
    )
    assert text.text == TEXT + "\nD=4\n\n# t\nE=5\n"
    assert EnvFile().with_sections((Section("t", {"E": "5"}),)).text == "# t\nE=5\n"


def test_a_name_without_a_value_any_more_goes() -> None:
    text = EnvFile(TEXT).with_sections((Section("s", {"B": None, "Z": None}),)).text
    assert text == TEXT.replace("B='two words' # why\n", "")


def test_the_last_of_two_lines_counts_and_is_the_one_changed() -> None:
    twice = EnvFile("A=1\nA=2\n")
    assert twice.values == {"A": "2"}
    assert twice.with_sections((Section("s", {"A": "3"}),)).text == "A=1\nA=3\n"


def test_no_earlier_line_of_a_name_that_goes_comes_to_count() -> None:
    assert EnvFile("A=1\nB=2\nA=3\n").with_sections((Section("s", {"A": None}),)).text == "B=2\n"


def test_a_value_may_stand_for_another_one() -> None:
    here = EnvFile("A=/srv\nB=${A}/models\n")
    assert here.resolved == {"A": "/srv", "B": "/srv/models"}
    assert here.values["B"] == "${A}/models"


def test_it_is_written_for_its_owner_only_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "sub" / ".env"
    path.parent.mkdir()
    path.write_text("A=1\n")
    path.chmod(0o644)
    EnvFile("A=2\n").write(path)
    assert path.read_text() == "A=2\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_cannot_be_written_or_read_is_named(tmp_path: Path) -> None:
    folder = tmp_path / ".env"
    (folder / "inside").mkdir(parents=True)
    for attempt in (lambda: EnvFile("A=1\n").write(folder), lambda: EnvFile.read(folder)):
        with pytest.raises(SettingsError, match=r"\.env cannot be"):
            attempt()
    assert [path.name for path in tmp_path.iterdir()] == [".env"]


@pytest.mark.parametrize("value", ["${HOME}", "a\nb", "it's $5", "back\\slash", "'\""])
def test_a_value_that_the_readers_would_not_read_alike_is_refused(value: str) -> None:
    with pytest.raises(SettingsError, match="NAME"):
        EnvFile().with_sections((Section("s", {"NAME": value}),))


def test_python_reads_what_was_written(tmp_path: Path) -> None:
    assert dotenv_values(written(tmp_path)) == wanted()


def test_compose_reads_what_was_written(tmp_path: Path) -> None:
    docker = shutil.which("docker")
    if docker is None:
        pytest.skip("docker is not installed")
    stack = tmp_path / "stack.yml"
    service = {"image": "none", "environment": {name: f"${{{name}}}" for name in wanted()}}
    stack.write_text(json.dumps({"services": {"one": service}}))
    if subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        pytest.skip("Docker Compose is not installed")
    command = [docker, "compose", "--env-file", str(written(tmp_path)), "-f", str(stack)]
    shown = subprocess.run(
        [*command, "config", "--format", "json"],
        capture_output=True,
        text=True,
        env={name: os.environ.get(name, "") for name in ("PATH", "HOME", "DOCKER_CONFIG")},
    )
    assert shown.returncode == 0, shown.stderr
    read = json.loads(shown.stdout)["services"]["one"]["environment"]
    # In what `config` prints, a dollar sign is doubled.
    assert {name: value.replace("$$", "$") for name, value in read.items()} == wanted()


def test_a_line_that_is_no_setting_is_named(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("A=1\n???\n")
    with pytest.raises(SettingsError, match=r"\.env, line 2"):
        EnvFile.read(path)


def wanted() -> dict[str, str]:
    return {f"V{number}": value for number, value in enumerate(HARD)}


def written(folder: Path) -> Path:
    path = folder / ".env"
    EnvFile().with_sections((Section("values", wanted()),)).write(path)
    return path
