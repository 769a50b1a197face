"""The firewall script as far as it goes without root; tests/stack has what it does to packets."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from contracts.settings import REPOSITORY

SCRIPT = REPOSITORY / "services/firewall/firewall.sh"
BRAIN = "VARIET_ROLE=brain\nLAN_IP=192.168.7.10\nHANDS_IP=192.168.7.20\n"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def firewall(tmp_path: Path) -> Run:
    """`firewall(settings, *arguments)`; programs in `tmp_path / "bin"` come first."""

    def run(settings: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "brain.env"
        file.write_text(settings, encoding="utf-8")
        return subprocess.run(
            ["sh", str(SCRIPT), *arguments, "--env-file", str(file)],
            capture_output=True,
            text=True,
            timeout=60,
            env={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
            check=False,
        )

    return run


def accepted(text: str, port: int) -> list[str]:
    return [
        one for one in text.splitlines() if f"--ctorigdstport {port} " in one and "-j RETURN" in one
    ]


def dropped(text: str, port: int) -> list[str]:
    return [
        one for one in text.splitlines() if f"--ctorigdstport {port} " in one and "-j DROP" in one
    ]


def test_it_shows_which_port_it_would_open_to_whom(firewall: Run) -> None:
    shown = firewall(BRAIN + "GATEWAY_PORT=9081\n")
    assert shown.returncode == 0
    assert len(accepted(shown.stdout, 9081)) == 2, "published, and relayed by docker-proxy"
    assert all("192.168.7.20" in one for one in accepted(shown.stdout, 9081))
    assert len(dropped(shown.stdout, 9081)) == 4, "the same in IPv4 and in IPv6"
    assert " 8000 " not in shown.stdout
    assert "8081" not in shown.stdout.replace("9081", "")
    assert "systemctl enable" in shown.stdout


def test_an_ipv6_brain_admits_only_an_ipv6_workstation(firewall: Run) -> None:
    settings = BRAIN.replace("192.168.7.10", "fd00::10")
    mixed = firewall(settings)
    assert mixed.returncode == 2
    assert "LAN_IP=fd00::10" in mixed.stderr
    assert "HANDS_IP=192.168.7.20" in mixed.stderr
    shown = firewall(settings.replace("192.168.7.20", "fd00::20"))
    before, after = shown.stdout.split("ip6tables-restore", 1)
    assert accepted(before, 8000) == []
    assert len(accepted(after, 8000)) == 2


def test_values_are_read_as_compose_reads_them_and_never_executed(
    firewall: Run, tmp_path: Path
) -> None:
    shown = firewall(
        f"VARIET_ROLE='brain'\nLAN_IP=1.2.3.4\nexport LAN_IP=\"192.168.7.10\"\r\n"
        f"HANDS_IP=192.168.7.20   # the desk\nGATEWAY_PORT=9000\nX=$(touch {tmp_path}/ran)\n"
    )
    assert shown.stderr == ""
    assert "Ports 9000 of 192.168.7.10: from 192.168.7.20 " in shown.stdout
    evil = firewall(BRAIN.replace("192.168.7.20", f"$(touch {tmp_path}/ran)"))
    assert evil.returncode == 2
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ("", "VARIET_ROLE is not set"),
        ("VARIET_ROLE=both\n", "VARIET_ROLE=both"),
        (BRAIN.replace("HANDS_IP=192.168.7.20", ""), "HANDS_IP is not set"),
        (BRAIN.replace("192.168.7.20", "192.168.7.300"), "HANDS_IP=192.168.7.300"),
        (BRAIN.replace("192.168.7.20", "desk"), "HANDS_IP=desk"),
        (BRAIN.replace("192.168.7.10", "0.0.0.0"), "LAN_IP=0.0.0.0"),
        (BRAIN.replace("192.168.7.20", "192.168.7.10"), "both 192.168.7.10"),
        (BRAIN + "GATEWAY_PORT=80x\n", "GATEWAY_PORT=80x"),
        (BRAIN + "GATEWAY_PORT=65536\n", "GATEWAY_PORT=65536"),
        (BRAIN + "GATEWAY_PORT=0\n", "GATEWAY_PORT=0"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(firewall: Run, settings: str, named: str) -> None:
    for action in ("show", "apply", "check", "unit"):
        done = firewall(settings, action)
        assert (done.returncode, done.stdout) == (2, "")
        assert named in done.stderr
        assert "brain.env" in done.stderr


def test_a_missing_address_names_the_flag_that_sets_it(firewall: Run) -> None:
    done = firewall(BRAIN.replace("HANDS_IP=192.168.7.20", ""))
    assert "Run: variet init --hands-ip IP" in done.stderr
    done = firewall("VARIET_ROLE=hands\nBIND_ADDR=0.0.0.0\n")
    assert "Run: variet init --lan-ip IP" in done.stderr


def test_a_missing_file_of_settings_names_the_command_that_writes_it(tmp_path: Path) -> None:
    command = ["sh", str(SCRIPT), "--env-file", str(tmp_path / "not.env")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "variet init" in done.stderr


def test_a_workstation_on_loopback_needs_no_rules(firewall: Run) -> None:
    for given in ("", "BIND_ADDR=127.0.0.1\n", "BIND_ADDR=::1\n", "BIND_ADDR=localhost\n"):
        shown = firewall(f"VARIET_ROLE=hands\n{given}")
        assert shown.returncode == 0
        assert "No rules" in shown.stdout
        assert "iptables" not in shown.stdout


def test_a_workstation_on_the_lan_admits_the_network_of_its_address(
    firewall: Run, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/ip"
    program.write_text(
        '#!/bin/sh\n[ "$*" = "-o addr show to 192.168.7.20" ] || exit 0\n'
        'echo "2: eth0    inet 192.168.7.20/24 brd 192.168.7.255 scope global eth0"\n'
    )
    program.chmod(0o755)
    shown = firewall("VARIET_ROLE=hands\nBIND_ADDR=192.168.7.20\nPORT=9001\n")
    assert len(accepted(shown.stdout, 9001)) == 2
    assert all("192.168.7.20/24" in one for one in accepted(shown.stdout, 9001))
    assert accepted(shown.stdout, 3000) == []
    traces = firewall(
        "VARIET_ROLE=hands\nBIND_ADDR=192.168.7.20\nCOMPOSE_PROFILES=qdrant,langfuse\n"
    )
    assert [len(accepted(traces.stdout, port)) for port in (3000, 8333)] == [2, 2]
    everywhere = firewall("VARIET_ROLE=hands\nBIND_ADDR=0.0.0.0\nLAN_IP=192.168.7.20\n")
    assert len(accepted(everywhere.stdout, 8001)) == 2
    elsewhere = firewall("VARIET_ROLE=hands\nBIND_ADDR=192.168.8.20\n")
    assert elsewhere.returncode == 2
    assert "BIND_ADDR" in elsewhere.stderr


def test_an_unknown_argument_is_dropped(firewall: Run) -> None:
    for arguments in (("drop",), ("show", "apply"), ("--env-file",)):
        command = ["sh", str(SCRIPT), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith("firewall.sh: ")


def test_the_unit_runs_after_docker_with_the_same_file_of_settings(
    firewall: Run, tmp_path: Path
) -> None:
    unit = firewall(BRAIN, "unit").stdout
    assert "After=docker.service" in unit
    assert f'ExecStart="{SCRIPT}" apply --env-file "{tmp_path / "brain.env"}"' in unit


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_the_script_is_clean() -> None:
    done = subprocess.run(
        ["shellcheck", str(SCRIPT)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == ""
