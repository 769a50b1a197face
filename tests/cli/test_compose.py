"""`docker compose` as this program calls it, with a program of ours in its place."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.compose import Compose, Container, profiles
from contracts.deployment import load_deployment
from contracts.errors import Unavailable
from contracts.settings import REPOSITORY

Program = Callable[[str], None]


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("VARIET_ENV_FILE", "/etc/variet/brain.env")

    def make(body: str) -> None:
        path = tmp_path / "docker"
        path.write_text(f"#!{sys.executable} -IS\nimport os, sys\n{body}\n")
        path.chmod(0o755)

    return make


def test_the_file_of_settings_and_the_folder_are_this_hosts(docker: Program) -> None:
    docker("print(os.getcwd(), *sys.argv[1:], sep='|')")
    assert Compose().call("ps", "-a").strip().split("|") == [
        str(REPOSITORY),
        "compose",
        "--project-directory",
        str(REPOSITORY),
        "--env-file",
        "/etc/variet/brain.env",
        "ps",
        "-a",
    ]


@pytest.mark.parametrize(
    "said",
    [
        '{"Service":"a","State":"running","Health":"healthy","ExitCode":0}\n'
        '{"Service":"b","State":"exited","Health":"","ExitCode":3}\n',
        '[{"Service":"a","State":"running","Health":"healthy","ExitCode":0},'
        '{"Service":"b","State":"exited","Health":"","ExitCode":3}]',
    ],
)
def test_containers_are_read_in_both_forms_that_compose_has_written(
    docker: Program, said: str
) -> None:
    docker(f"print({said!r})")
    assert Compose().containers() == [
        Container("a", "running", "healthy", 0),
        Container("b", "exited", "", 3),
    ]


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("Cannot connect to the Docker daemon at unix:///x. Is it running?", "systemctl start"),
        ("permission denied while trying to connect to the docker API", "group docker"),
        ("service x has neither an image nor a build context", "make logs"),
    ],
)
def test_a_failure_says_what_docker_said_and_what_to_do(
    docker: Program, said: str, remedy: str
) -> None:
    docker(f"sys.exit('first line\\n' + {said!r})")
    with pytest.raises(Unavailable) as caught:
        Compose().call("up")
    assert said in caught.value.message
    assert remedy in caught.value.remedy
    with pytest.raises(Unavailable, match="up"):
        Compose().feed("up", source=io.BytesIO(b"x" * 1_000_000))
    with pytest.raises(Unavailable, match="up"):
        Compose().read("up", into=io.BytesIO())


def test_without_docker_it_is_said(docker: Program) -> None:
    for call in (lambda: Compose().call("ps"), lambda: Compose().read("ps", into=io.BytesIO())):
        with pytest.raises(Unavailable) as caught:
            call()
        assert caught.value.code == "no_docker"


def test_streams_go_both_ways_without_end(docker: Program) -> None:
    content = bytes(range(256)) * 20_000
    docker("import shutil\nshutil.copyfileobj(sys.stdin.buffer, open('/dev/null', 'wb'))\nprint(7)")
    assert Compose().feed("run", source=io.BytesIO(content)) == "7\n"
    docker("sys.stdout.buffer.write(bytes(range(256)) * 20_000)")
    out = io.BytesIO()
    Compose().read("run", into=out)
    assert out.getvalue() == content


def test_a_reader_that_fails_stops_the_program(docker: Program) -> None:
    class Full:
        def write(self, data: bytes) -> None:
            raise OSError(28, "No space left on device")

    docker("while True: sys.stdout.buffer.write(bytes(65536))")
    with pytest.raises(OSError, match="No space"):
        Compose().read("run", into=Full())


def test_profiles_are_read_as_compose_reads_them() -> None:
    here = load_deployment(_env_file=None, compose_profiles=" qdrant,langfuse ,")
    assert profiles(here) == {"qdrant", "langfuse"}
    assert profiles(load_deployment(_env_file=None, compose_profiles=None)) == frozenset()
