"""What the networks of both stacks let through, on packets: another machine of the LAN, which knows
no way back to the containers' own addresses, is asked and asks."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path

import pytest

from tests.compose import stacks
from tests.compose.rendering import render
from tests.stack.docker import docker, run
from tests.stack.images import PYTHON

pytestmark = pytest.mark.stack

ID = f"vnet{os.getpid() % 100_000}"
# The range for benchmarks (RFC 2544): no LAN uses it.
HERE, OTHER, PORT = "198.18.79.1", "198.18.79.2", 18_790
SERVE = (
    "import http.server as h,sys\n"
    "s=h.ThreadingHTTPServer((sys.argv[1],int(sys.argv[2])),h.SimpleHTTPRequestHandler)\n"
    "print('ready',flush=True)\n"
    "s.serve_forever()\n"
)
GET = (
    "import sys,urllib.request as r\n"
    "http=r.build_opener(r.ProxyHandler({}))\n"
    "try: print(http.open(sys.argv[1],timeout=float(sys.argv[2])).status)\n"
    "except OSError as e: print(type(getattr(e,'reason',e)).__name__)\n"
)


@pytest.fixture(scope="module")
def other(bases: None) -> Iterator[str]:
    """Another machine of the LAN, with a page; its name as a network namespace."""
    server = None
    try:
        run("ip", "netns", "add", ID)
        run("ip", "link", "add", f"{ID}a", "type", "veth", "peer", "name", f"{ID}b")
        run("ip", "link", "set", f"{ID}b", "netns", ID)
        run("ip", "addr", "add", f"{HERE}/24", "dev", f"{ID}a")
        run("ip", "link", "set", f"{ID}a", "up")
        run("ip", "-n", ID, "addr", "add", f"{OTHER}/24", "dev", f"{ID}b")
        run("ip", "-n", ID, "link", "set", f"{ID}b", "up")
        command = ["ip", "netns", "exec", ID, sys.executable, "-c", SERVE, OTHER, str(PORT)]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert server.stdout
        assert server.stdout.readline() == b"ready\n"
        yield ID
    finally:
        if server:
            server.kill()
            server.communicate()
        run("ip", "link", "del", f"{ID}a", check=False)
        run("ip", "netns", "del", ID, check=False)


@pytest.fixture(scope="module")
def host_page() -> Iterator[int]:
    """A server of this host that listens on all of its addresses; its port."""
    with ThreadingHTTPServer(("0.0.0.0", 0), SimpleHTTPRequestHandler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield running.server_port
        finally:
            running.shutdown()
            thread.join()


@pytest.fixture(scope="module", params=["open", "published", "internal"])
def network(request: pytest.FixtureRequest, other: str, folder: Path) -> Iterator[tuple[str, str]]:
    """A network as the stacks have it, and which of the three kinds it is."""
    config = render(stacks.HANDS, stacks.hands(), folder)["networks"]
    kinds = {"open": "lan", "published": "langfuse_page", "internal": "workspace"}
    made = config[kinds[request.param]]
    options = [f"--opt={key}={value}" for key, value in made.get("driver_opts", {}).items()]
    internal = ["--internal"] if made.get("internal") else []
    name = f"{ID}-{request.param}"
    docker("network", "create", *options, *internal, name)
    yield name, request.param
    docker("network", "rm", name)


def test_only_an_open_network_lets_its_containers_out(network: tuple[str, str]) -> None:
    name, kind = network
    url = f"http://{OTHER}:{PORT}/"
    container = ("run", "--rm", "--network", name, PYTHON, "python3", "-c", GET, url)
    answer = docker(*container, "30" if kind == "open" else "3")
    assert (answer == "200") is (kind == "open"), answer


def test_all_but_internal_networks_publish_ports_to_the_lan(network: tuple[str, str]) -> None:
    name, kind = network
    running = ("run", "--detach", "--network", name, f"--publish={HERE}:{PORT + 1}:8000", PYTHON)
    container = docker(*running, "python3", "-c", SERVE, "0.0.0.0", "8000")
    try:
        wait_until_ready(container)
        patience = "3" if kind == "internal" else "30"
        url = f"http://{HERE}:{PORT + 1}/"
        answer = run("ip", "netns", "exec", ID, sys.executable, "-c", GET, url, patience).strip()
        assert (answer == "200") is (kind != "internal"), answer
    finally:
        docker("rm", "--force", container)


def test_no_container_meets_its_host_on_an_internal_network(
    network: tuple[str, str], host_page: int
) -> None:
    name, kind = network
    form = "{{range .IPAM.Config}}{{.Subnet}} {{end}}"
    subnet = ip_network(docker("network", "inspect", "--format", form, name).split()[0])
    url = f"http://{subnet[1]}:{host_page}/"
    container = ("run", "--rm", "--network", name, PYTHON, "python3", "-c", GET, url)
    answer = docker(*container, "3" if kind == "internal" else "30")
    assert (answer == "200") is (kind != "internal"), answer


def wait_until_ready(container: str) -> None:
    """Fails when it ends before it says so."""
    command = ["docker", "logs", "--follow", container]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as log:
        assert log.stdout
        assert log.stdout.readline() == b"ready\n"
        log.kill()
