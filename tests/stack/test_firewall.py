"""The firewall's rules on packets: a LAN of three, one of which is this host with a real Docker."""

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from contracts.settings import REPOSITORY

pytestmark = pytest.mark.stack

SCRIPT = REPOSITORY / "services/firewall/firewall.sh"
# The range for benchmarks (RFC 2544) and a unique local one: no LAN uses them.
HOST, HANDS, STRANGER = (f"198.18.77.{n}" for n in (1, 2, 3))
HOST6, HANDS6, STRANGER6 = (f"fd5a:77::{n}" for n in (1, 2, 3))
PORT, PROXIED = 18_770, 18_771
ID = f"vfw{os.getpid() % 100_000}"
PAGE = "from the container"
SILENCE = "TimeoutError"
GET = (
    "import sys,urllib.request as r\n"
    "http=r.build_opener(r.ProxyHandler({}))\n"
    "try: print(http.open(sys.argv[1],timeout=float(sys.argv[2])).read().decode())\n"
    "except OSError as e: print(type(getattr(e,'reason',e)).__name__)"
)
SERVE = (
    "import socket\n"
    f"s=socket.create_server(('{STRANGER}',{PORT}))\n"
    "print('ready',flush=True)\n"
    "c,_=s.accept()\n"
    "c.recv(9999)\n"
    "c.sendall(b'abroad')\n"
)


def run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done


def lacking() -> str:
    """What this machine lacks for these tests."""
    if os.geteuid() != 0:
        return "root"
    for program in ("docker", "ip", "iptables", "ip6tables", "busybox"):
        if not shutil.which(program):
            return f"the program {program}"
    if run("ldd", shutil.which("busybox") or "", check=False).returncode == 0:
        return "a busybox that is linked statically"
    if run("docker", "info", check=False).returncode:
        return "a running Docker engine"
    return ""


@dataclass(frozen=True)
class Lan:
    """A LAN with this host, the workstation and a stranger on it."""

    folder: Path

    def reach(self, who: str, port: int = PORT, host: str = HOST, expected: str = PAGE) -> str:
        """What `who` gets from a port of this host: a page, or the name of an error. Silence is
        waited for less than an answer is."""
        name = f"[{host}]" if ":" in host else host
        command = [sys.executable, "-c", GET, f"http://{name}:{port}/"]
        command.append("2" if expected == SILENCE else "30")
        if who != "host":
            command = ["ip", "netns", "exec", f"{ID}-{who}", *command]
        return run(*command).stdout.strip()

    def firewall(self, action: str, lan: str = HOST, hands: str = HANDS, port: int = PORT) -> int:
        settings = self.folder / "brain.env"
        settings.write_text(
            f"VARIET_ROLE=brain\nLAN_IP={lan}\nHANDS_IP={hands}\nGATEWAY_PORT={port}\n"
        )
        return run(str(SCRIPT), action, "--env-file", str(settings), check=False).returncode


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    if gap := lacking():
        pytest.skip(f"{gap} is missing")
    if "VARIET-" in run("iptables", "-S").stdout:
        pytest.skip("this host's own rules are in place; they are left alone")
    folder = tmp_path_factory.mktemp("firewall")
    try:
        lay_wires()
        start_containers(folder)
        yield Lan(folder)
    finally:
        run(str(SCRIPT), "remove", check=False)
        run("docker", "rm", "-f", f"{ID}-plain", f"{ID}-relayed", check=False)
        run("docker", "network", "rm", f"{ID}-both", f"{ID}-old", check=False)
        run("docker", "image", "rm", f"{ID}:test", check=False)
        for name in ("hands", "stranger"):
            run("ip", "netns", "del", f"{ID}-{name}", check=False)
        run("ip", "link", "del", ID, check=False)


def lay_wires() -> None:
    """A switch (a bridge that has this host's addresses) and a cable to each of the others."""
    run("ip", "link", "add", ID, "type", "bridge")
    run("ip", "link", "set", ID, "up")
    run("ip", "addr", "add", f"{HOST}/24", "dev", ID)
    run("ip", "addr", "add", f"{HOST6}/64", "dev", ID, "nodad")
    others = (("hands", HANDS, HANDS6), ("stranger", STRANGER, STRANGER6))
    for number, (name, address, address6) in enumerate(others):
        space, near, far = f"{ID}-{name}", f"{ID}n{number}", f"{ID}f{number}"
        run("ip", "netns", "add", space)
        run("ip", "link", "add", near, "type", "veth", "peer", "name", far)
        run("ip", "link", "set", near, "master", ID, "up")
        run("ip", "link", "set", far, "netns", space)
        run("ip", "-n", space, "addr", "add", f"{address}/24", "dev", far)
        run("ip", "-n", space, "addr", "add", f"{address6}/64", "dev", far, "nodad")
        run("ip", "-n", space, "link", "set", "lo", "up")
        run("ip", "-n", space, "link", "set", far, "up")


def start_containers(folder: Path) -> None:
    """`plain` is redirected to in both IP versions; `relayed` has no IPv6, so that docker-proxy
    itself takes what comes for it in IPv6."""
    (folder / "index.html").write_text(PAGE)
    archive = folder / "image.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(shutil.which("busybox") or "", "bin/busybox")
        tar.add(folder / "index.html", "www/index.html")
    run("docker", "import", str(archive), f"{ID}:test")
    run("docker", "network", "create", "--ipv6", "--subnet", "fd5a:78::/64", f"{ID}-both")
    run("docker", "network", "create", f"{ID}-old")
    for name, network, port in (("plain", "both", PORT), ("relayed", "old", PROXIED)):
        published = [f"--publish={host}:{port}:80" for host in (HOST, f"[{HOST6}]")]
        run(
            *(
                "docker",
                "run",
                "--detach",
                "--name",
                f"{ID}-{name}",
                "--network",
                f"{ID}-{network}",
            ),
            *(*published, f"{ID}:test", "/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www"),
        )


OPEN = {"host": PAGE, "hands": PAGE, "stranger": PAGE}
GUARDED = {"host": PAGE, "hands": PAGE, "stranger": SILENCE}


def reached(
    lan: Lan, expected: dict[str, str], port: int = PORT, host: str = HOST
) -> dict[str, str]:
    return {who: lan.reach(who, port, host, got) for who, got in expected.items()}


def test_only_the_workstation_and_this_host_reach_a_published_port(lan: Lan) -> None:
    assert reached(lan, OPEN) == OPEN, "else the rules prove nothing"
    assert lan.firewall("check") == 1
    assert lan.firewall("apply") == 0
    assert reached(lan, GUARDED) == GUARDED
    assert lan.firewall("check") == 0
    assert lan.firewall("remove") == 0
    assert reached(lan, OPEN) == OPEN
    assert lan.firewall("remove") == 0, "twice is no error"


def test_the_same_holds_in_ipv6_and_for_what_docker_proxy_relays(lan: Lan) -> None:
    for port in (PORT, PROXIED):
        assert reached(lan, OPEN, port, HOST6) == OPEN
    try:
        for port in (PORT, PROXIED):
            assert lan.firewall("apply", HOST6, HANDS6, port) == 0
            assert reached(lan, GUARDED, port, HOST6) == GUARDED
        assert lan.firewall("apply", HOST6, HANDS6) == 0
        assert lan.reach("hands", expected=SILENCE) == SILENCE, "IPv4 is for nobody then"
    finally:
        lan.firewall("remove")


def test_applied_twice_the_rules_stand_once(lan: Lan) -> None:
    try:
        assert lan.firewall("apply") == 0
        once = [run(program, "-S").stdout for program in ("iptables", "ip6tables")]
        assert lan.firewall("apply") == 0
        assert [run(program, "-S").stdout for program in ("iptables", "ip6tables")] == once
        assert once[0].count("-j VARIET-PUBLISHED") == once[1].count("-j VARIET-PUBLISHED") == 1
    finally:
        lan.firewall("remove")


def test_other_settings_replace_the_old_ones(lan: Lan) -> None:
    try:
        assert lan.firewall("apply") == 0
        assert lan.firewall("check", hands=STRANGER) == 1
        assert lan.firewall("apply", hands=STRANGER) == 0
        assert lan.reach("stranger") == PAGE
        assert lan.reach("hands", expected=SILENCE) == SILENCE
    finally:
        lan.firewall("remove")


def test_a_rule_that_another_program_put_before_ours_is_found_and_mended(lan: Lan) -> None:
    try:
        lan.firewall("apply")
        run("iptables", "-I", "DOCKER-USER", "1", "-s", STRANGER, "-j", "ACCEPT")
        assert lan.reach("stranger") == PAGE
        assert lan.firewall("check") == 1
        assert lan.firewall("apply") == 0
        assert lan.firewall("check") == 0
        assert lan.reach("stranger", expected=SILENCE) == SILENCE
    finally:
        run("iptables", "-D", "DOCKER-USER", "-s", STRANGER, "-j", "ACCEPT", check=False)
        lan.firewall("remove")


def test_a_container_still_calls_the_same_port_elsewhere_and_hears_the_answer(lan: Lan) -> None:
    space = ["ip", "netns", "exec", f"{ID}-stranger", sys.executable, "-c", SERVE]
    call = ("docker", "exec", f"{ID}-plain", "/bin/busybox", "sh", "-c")
    with subprocess.Popen(space, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            assert lan.firewall("apply") == 0
            words = f"echo hello | /bin/busybox nc -w 30 {STRANGER} {PORT}"
            assert run(*call, words).stdout == "abroad"
        finally:
            server.terminate()
            lan.firewall("remove")
