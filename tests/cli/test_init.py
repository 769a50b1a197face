import json
import os
import pty
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli import init as command
from cli.host.addresses import Address
from cli.host.docker import Docker
from cli.host.facts import Host
from contracts.settings import REPOSITORY
from tests.cli.conftest import Variet
from tests.support.machines import LAN, card, host

KEY = "c" * 64
TWO_3060 = (card(0, "RTX 3060", 12_288, "8.6"), card(1, "RTX 3060", 12_288, "8.6"))
BRAIN = ("init", "--role", "brain", "--preset", "2x3060", "--lan-ip", LAN)
HANDS = ("init", "--role", "hands", "--brain-ip", LAN, "--brain-key", KEY)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file of settings that keeps everything below a folder of its own; this host has cards."""
    path = tmp_path / "my.env"
    path.write_text(f"# mine\nSTATE_DIR={tmp_path}/state\n")
    monkeypatch.setenv("VARIET_ENV_FILE", str(path))
    monkeypatch.delenv("SUDO_UID", raising=False)
    on(monkeypatch, host(*TWO_3060))
    return path


def on(monkeypatch: pytest.MonkeyPatch, machine: Host) -> None:
    monkeypatch.setattr(command, "examine", lambda folder: machine)


def values(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if "=" in line and line[0] != "#"]
    return {name: value.strip("'") for name, _, value in (line.partition("=") for line in lines)}


def test_a_brain_gets_its_file_its_folders_and_the_next_commands(
    here: Path, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert variet(*BRAIN, "--hands-ip", "192.168.1.20") == 0
    told = capsys.readouterr().out
    written = values(here)
    assert written["GATEWAY_ADMIN_KEY"] != written["GATEWAY_API_KEY"]
    assert stat.S_IMODE(here.stat().st_mode) == 0o600
    assert here.read_text().startswith("# mine\n")
    for name in ("MODEL_STORE", "HF_HOME"):
        assert Path(written[name]).is_dir()
    assert "models pull qwen3.6-35b-a3b" in told
    assert "make" in told
    assert "firewall.sh apply" in told
    assert f"variet init --role hands --preset 2x3060 --brain-ip {LAN} --brain-key KEY" in told
    assert written["GATEWAY_API_KEY"] not in told


def test_containers_can_read_the_folders_whatever_the_umask(
    here: Path, variet: Variet, tmp_path: Path
) -> None:
    maps = tmp_path / "private" / "maps"
    here.write_text(f"{here.read_text()}MAPS_DIR={maps}\n")
    former = os.umask(0o077)
    try:
        assert variet(*HANDS, "--workspace", str(tmp_path / "work")) == 0
    finally:
        os.umask(former)
    for path in (maps, maps.parent, tmp_path / "state" / "undo", *(tmp_path / "work").rglob("*")):
        needed = 0o050 if path.is_dir() else 0o040
        assert path.stat().st_mode & needed == needed, path


def test_the_key_is_printed_when_it_is_asked_for(
    here: Path, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert variet(*BRAIN, "--show-key") == 0
    assert f"--brain-key {values(here)['GATEWAY_API_KEY']}" in capsys.readouterr().out


def test_the_workstation_gets_every_secret_and_a_workspace(
    here: Path, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert variet(*HANDS, "--preset", "2x3060", "--workspace", str(here.parent / "work")) == 0
    told = capsys.readouterr().out
    written = values(here)
    assert written["OPENAI_COMPAT_KEY"] == KEY
    assert (here.parent / "work" / "maps").is_dir()
    assert (here.parent / "state" / "undo").is_dir()
    assert "POSTGRES_PASSWORD=(secret)" in told
    for name in ("OPENAI_COMPAT_KEY", "POSTGRES_PASSWORD", "VARIET_API_KEY"):
        assert written[name] not in told


def test_what_the_file_says_already_is_not_asked(here: Path, variet: Variet) -> None:
    work = here.parent / "mine"
    work.mkdir()
    with here.open("a") as file:
        file.write(f"WORKSPACE_DIR={work}\nOPENAI_COMPAT_URL=http://10.0.0.5:8000/v1\n")
        file.write(f"OPENAI_COMPAT_KEY={KEY}\n")
    lines = here.read_text().splitlines()
    assert variet("init", "--role", "hands") == 0
    assert [line for line in here.read_text().splitlines() if line in lines] == lines
    assert (work / "maps").is_dir()
    assert not (work / "README.md").exists()


def test_folders_may_be_named_by_another_setting(here: Path, variet: Variet) -> None:
    with here.open("a") as file:
        file.write("MODEL_STORE=${STATE_DIR}/store\n")
    assert variet(*BRAIN) == 0
    assert (here.parent / "state" / "store").is_dir()
    text = here.read_bytes()
    assert variet("init") == 0
    assert here.read_bytes() == text


def test_the_workstation_can_go_back_to_embedding_by_itself(here: Path, variet: Variet) -> None:
    assert variet(*HANDS, "--preset", "2x3060") == 0
    assert "EMBED_URL" in values(here)
    assert variet("init", "--preset", "none") == 0
    assert not {"EMBED_URL", "EMBED_KEY", "EMBED_MODEL", "VARIET_PRESET"} & values(here).keys()


def test_a_second_time_changes_no_byte(here: Path, variet: Variet) -> None:
    assert variet(*BRAIN) == 0
    text = here.read_bytes()
    assert variet(*BRAIN) == 0
    assert variet("init") == 0
    assert here.read_bytes() == text


def test_a_file_that_others_could_read_is_closed_even_if_nothing_changes(
    here: Path, variet: Variet
) -> None:
    assert variet(*BRAIN) == 0
    here.chmod(0o644)
    assert variet("init") == 0
    assert stat.S_IMODE(here.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_with_sudo_everything_belongs_to_who_called_it(
    here: Path, variet: Variet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_UID", "1234")
    monkeypatch.setenv("SUDO_GID", "1235")
    assert variet(*HANDS) == 0
    written = values(here)
    assert (written["VARIET_UID"], written["VARIET_GID"]) == ("1234", "1235")
    state = here.parent / "state"
    for path in (here, state / "undo", state / "workspace", *(state / "workspace").rglob("*")):
        assert (path.stat().st_uid, path.stat().st_gid) == (1234, 1235)


def test_a_public_address_is_warned_of(
    here: Path, variet: Variet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on(monkeypatch, host(*TWO_3060, addresses=(Address("eth0", "8.8.4.4", default=True),)))
    assert variet(*BRAIN[:-1], "8.8.4.4") == 0
    assert "LAN_IP=8.8.4.4 is a public address" in capsys.readouterr().out


def test_another_tier_changes_one_line_and_no_secret(here: Path, variet: Variet) -> None:
    assert variet(*BRAIN) == 0
    before = values(here)
    assert variet("init", "--tier", "deep") == 0
    after = values(here)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"ENGINE_TIER"}


def test_what_became_of_a_line_that_went_is_told(
    here: Path, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert variet(*BRAIN) == 0
    here.write_text(f"{here.read_text()}LLAMACPP_MODEL=mine.gguf\nEMBED_PORT=8081\n")
    capsys.readouterr()
    assert variet("init") == 0
    told = capsys.readouterr().out
    assert "LLAMACPP_MODEL is gone (it was mine.gguf): a model is served as its preset says" in told
    assert "EMBED_PORT is gone (it was 8081): embeddings and reranking are at GATEWAY_PORT" in told
    assert not {"LLAMACPP_MODEL", "EMBED_PORT"} & values(here).keys()
    steps = [line.split()[-1] for line in told.splitlines() if line.strip().startswith("make")]
    assert steps[:2] == ["down", "up"], "what runs since before is ended first"
    assert variet("init") == 0
    assert "make down" not in capsys.readouterr().out


def test_without_a_terminal_a_missing_answer_names_its_flag(
    here: Path, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    text = here.read_text()
    assert variet("init") == 1
    assert "--role is not given" in capsys.readouterr().err
    assert variet("init", "--role", "brain") == 1
    told = capsys.readouterr().err
    assert "--preset is not given" in told
    assert "--yes takes what is proposed: 2x3060" in told
    assert variet("init", "--role", "hands", "--brain-ip", LAN) == 1
    assert "--brain-key is not given" in capsys.readouterr().err
    assert here.read_text() == text


def test_what_is_proposed_can_be_taken_unseen(here: Path, variet: Variet) -> None:
    assert variet("init", "--role", "brain", "--yes") == 0
    written = values(here)
    assert (written["VARIET_PRESET"], written["LAN_IP"]) == ("2x3060", LAN)


def test_the_key_can_come_by_standard_input(
    here: Path, variet: Variet, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO(f"{KEY}\n"))
    assert variet(*HANDS[:-1], "-") == 0
    assert values(here)["OPENAI_COMPAT_KEY"] == KEY


def test_a_driver_that_cannot_run_the_image_stops_it_and_names_a_way(
    here: Path, variet: Variet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = (card(0, "RTX 4090", 24_564, "8.9", "575.64"), card(1, "RTX 2070", 8_192, "7.5"))
    on(monkeypatch, host(*old))
    text = here.read_text()
    words = ("init", "--role", "brain", "--preset", "4090+2070", "--lan-ip", LAN)
    assert variet(*words) == 1
    told = capsys.readouterr().out
    assert "the driver is 575.64, and the image vllm-cuda (CUDA 13) needs 580 or newer" in told
    assert "--tier fast" in told
    assert here.read_text() == text
    assert not (here.parent / "state").exists()
    assert variet(*words, "--tier", "fast") == 0


def test_what_does_not_fit_is_told_with_a_remedy(
    here: Path, variet: Variet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    docker = Docker("24.0.7", None, problem="", compose_problem="no such command")
    on(monkeypatch, host(ram_mib=4_000, disk_free=10**9, docker=docker))
    assert variet(*BRAIN[:-1], "10.9.8.7") == 0
    told = capsys.readouterr().out
    for part in (
        "no NVIDIA card is to be seen",
        "4000 MiB of memory",
        "Docker's engine is 24.0.7, older than 25.0",
        "Docker Compose cannot be used (no such command)",
        "1.0 GB of disk are free; the models still to fetch take 47.",
        f"LAN_IP=10.9.8.7 is no address of this machine (it has: {LAN})",
    ):
        assert part in told
    assert told.count("→") == told.count("! ")


def test_a_small_workstation_is_told_what_to_leave_out(
    here: Path, variet: Variet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on(monkeypatch, host(ram_mib=8_000))
    assert variet(*HANDS) == 0
    assert "--profiles qdrant,searxng" in capsys.readouterr().out
    assert variet("init", "--profiles", "qdrant") == 0
    assert "! " not in capsys.readouterr().out
    assert values(here)["COMPOSE_PROFILES"] == "qdrant"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((*BRAIN[:-3], "mainframe", "--lan-ip", LAN), "no host preset 'mainframe'"),
        ((*BRAIN[:-3], "../manifest", "--lan-ip", LAN), "no host preset '../manifest'"),
        ((*BRAIN[:-1], "brain.local"), "--lan-ip: brain.local is no IP address"),
        ((*BRAIN[:-1], "0.0.0.0"), "--lan-ip: 0.0.0.0 is no address of one host"),
        ((*HANDS[:-3], "fd00::1", "--brain-key", KEY), "--brain-ip: fd00::1 is an IPv6 address"),
        ((*HANDS[:-1], f"{KEY} "), "OPENAI_COMPAT_KEY: has to be ASCII"),
        ((*BRAIN, "--profiles", "langfuse"), "--profiles langfuse"),
        ((*HANDS, "--brain-url", "brain:8000"), "OPENAI_COMPAT_URL=brain:8000"),
    ],
)
def test_a_wrong_answer_writes_nothing_and_is_named(
    here: Path,
    variet: Variet,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    told: str,
) -> None:
    text = here.read_text()
    assert variet(*words) == 1
    assert told in capsys.readouterr().err
    assert here.read_text() == text


def test_a_file_of_the_other_role_is_not_taken_over(
    here: Path, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert variet(*BRAIN) == 0
    assert variet(*HANDS) == 1
    assert "--env-file hands.env" in capsys.readouterr().err


def test_both_roles_live_in_one_checkout_with_a_file_each(here: Path, variet: Variet) -> None:
    other = here.parent / "hands.env"
    other.write_text(f"STATE_DIR={here.parent}/state\n")
    assert variet(*BRAIN) == 0
    assert variet(*HANDS, "--env-file", str(other)) == 0
    assert values(here)["VARIET_ROLE"] == "brain"
    assert values(other)["VARIET_ROLE"] == "hands"


def test_the_report_is_json_when_asked(
    here: Path, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert variet(*BRAIN, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["written"] is True
    assert report["changes"]["GATEWAY_API_KEY"] == "(secret)"
    assert report["host"]["gpus"]["cards"][1]["compute"] == "8.6"
    assert [one["id"] for one in report["to_fetch"]] == [
        *("qwen3.6-35b-a3b", "gpt-oss-20b", "qwen3.8-27b", "bge-small-en-v1.5")
    ]
    # 33.4 million numbers: the hub's file has 32 bits for each.
    assert 125e6 < report["to_fetch"][-1]["size"] < 145e6
    assert any(step.endswith("smoke") for step in report["next"])


def test_a_host_whose_engines_run_natively_is_told_how_to_start_the_gateway(
    here: Path, variet: Variet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on(monkeypatch, host(system="darwin", docker=Docker(problem="none")))
    assert variet("init", "--role", "brain", "--yes") == 0
    told = capsys.readouterr().out
    assert values(here)["VARIET_PRESET"] == "mac"
    assert "make ENV_FILE=" in told
    assert " gateway\n" in told
    assert "models pull bge-m3" in told
    assert "Docker" not in told
    assert values(here)["GATEWAY_API_KEY"] not in told


def test_on_a_terminal_it_asks_and_shows_the_key(tmp_path: Path) -> None:
    path = tmp_path / "my.env"
    path.write_text(f"STATE_DIR={tmp_path}/state\n")
    told = "".join(on_a_terminal(path, ["brain", "cpu", "127.0.0.1", "y"]))
    assert "What is this host?" in told
    assert "Which hardware preset?" in told
    assert f"--brain-key {values(path)['GATEWAY_API_KEY']}" in told
    assert values(path)["VARIET_PRESET"] == "cpu"


def test_on_a_terminal_a_no_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "my.env"
    path.write_text(f"STATE_DIR={tmp_path}/state\n")
    list(on_a_terminal(path, ["brain", "cpu", "127.0.0.1", "n"], status=1))
    assert path.read_text() == f"STATE_DIR={tmp_path}/state\n"


def on_a_terminal(path: Path, answers: list[str], status: int = 0) -> Iterator[str]:
    """What the command prints on a terminal where those lines are typed."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "VARIET_ENV_FILE": str(path), "COLUMNS": "300", "TERM": "dumb"}
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "init"],
        cwd=REPOSITORY,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    os.write(ours, "".join(f"{answer}\n" for answer in answers).encode())
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        while True:
            try:
                got = terminal.read(4_096)
            except OSError:
                break
            if not got:
                break
            yield got.decode(errors="replace")
    assert process.wait() == status
