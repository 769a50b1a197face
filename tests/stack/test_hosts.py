"""Both hosts, brought up as their owners bring them up, and what they promise when all is well."""

import socket

import httpx2
import pytest

from contracts.report import Report as Summary
from tests.stack.docker import docker
from tests.stack.hosts import LAN_IP, Host
from tests.stack.report import Report

pytestmark = pytest.mark.stack

QUESTION = "Summarize anomalies in boost_target map"
ANSWER_S = 10.0
TOOLS = ("calibration", "logs", "workspace")
REACH = """
import socket, sys
for address in sys.argv[1:]:
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 2).close()
        print(address)
    except OSError:
        pass
"""


def reachable(host: Host, service: str, *addresses: str) -> list[str]:
    """Which of these a service's container can open a connection to."""
    container = host.container(service)
    return docker("exec", container, "python", "-P", "-c", REACH, *addresses).split()


def test_each_host_comes_up_healthy(brain: Host, hands: Host, report: Report) -> None:
    report.measured("brain", brain.image_sizes(), brain.memory())
    report.measured("hands", hands.image_sizes(), hands.memory())
    for host in (brain, hands):
        assert {host.health(name) for name in host.services()} == {"healthy"}


def test_the_brain_does_all_that_it_promises(brain: Host, hands: Host, report: Report) -> None:
    table = brain.make("smoke")
    report.note("make smoke, brain", table)
    assert "brain: all is well" in table


def test_the_hands_do_all_that_they_promise(hands: Host, report: Report) -> None:
    table = hands.make("smoke")
    report.note("make smoke, hands", table)
    assert "hands: all is well" in table


def test_the_model_on_the_brain_summarizes_a_map_through_a_tool_in_time(
    api: httpx2.Client, report: Report
) -> None:
    request = {"message": QUESTION, "response_schema": Summary.model_json_schema()}
    answer = api.post("/chat", json=request).raise_for_status().json()
    report.times[f"POST /chat {QUESTION!r}"] = answer["latency_ms"] / 1_000
    assert answer["status"] == "completed", answer
    assert [call["name"] for call in answer["tool_calls"]] == ["get_map"]
    found = answer["tool_calls"][0]["result"]["anomalies"]
    summary = Summary.model_validate(answer["structured"])
    assert [(one.row, one.column) for one in summary.anomalies] == [
        (one["row"], one["column"]) for one in found
    ]
    assert answer["model"] == "nano@balanced"
    assert answer["latency_ms"] < ANSWER_S * 1_000


def test_tool_containers_reach_neither_the_brain_nor_each_other_nor_the_database(
    hands: Host,
) -> None:
    values = hands.values
    everything = [
        f"{LAN_IP}:8000",
        f"127.0.0.1:{values['PORT']}",
        "postgres:5432",
        *(f"{name}:8000" for name in TOOLS),
    ]
    for name in TOOLS:
        assert reachable(hands, name, *everything) == [f"{name}:8000"]


def test_the_orchestrator_reaches_the_brain_by_its_published_port_alone(
    brain: Host, hands: Host
) -> None:
    wanted = [f"{LAN_IP}:8000"]
    names = [f"{name[:12]}:8080" for name in brain.engines().values()]
    assert names
    assert reachable(hands, "orchestrator", *wanted, *names) == wanted


def test_the_brain_is_published_on_its_lan_address_and_the_hands_on_loopback(
    brain: Host, hands: Host
) -> None:
    port = hands.values["PORT"]
    form = ("--filter", "name=variet-stack", "--format", "{{.Ports}}")
    found = docker("ps", *form).replace(", ", "\n").splitlines()
    published = {where.split("->")[0] for where in found if "->" in where}
    assert published == {f"{LAN_IP}:8000", f"127.0.0.1:{port}"}
    assert not listens(LAN_IP, int(port))


def listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), 1).close()
    except OSError:
        return False
    return True


def test_root_file_systems_are_read_only_and_only_the_workspace_belongs_to_its_owner(
    hands: Host,
) -> None:
    write = "open('/app/mark', 'w')"
    for name in ("orchestrator", *TOOLS):
        said = docker("exec", hands.container(name), "python", "-c", write, check=False)
        assert "Read-only file system" in said
    who = docker("exec", hands.container("workspace"), "id", "-u")
    assert who == hands.values["VARIET_UID"]
