import os
import socket
from collections.abc import Iterator

import pytest

from cli.compose import Container
from cli.doctor import network
from cli.doctor.network import (
    Port,
    check_exposure,
    check_firewall,
    check_lan_address,
    check_neighbour,
    check_ports,
    open_ports,
)
from cli.host.addresses import Address
from cli.host.command import Output, Runner, run

# All of 127.0.0.0/8 is this host: addresses as of several interfaces.
HERE, ELSEWHERE, NOWHERE = "127.0.0.1", "127.0.0.2", "127.0.0.3"
KNOWN = (Address("eth0", HERE, default=True), Address("eth1", ELSEWHERE), Address("wg0", NOWHERE))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server((ELSEWHERE, 0)) as server:
        yield server


def port_of(server: socket.socket) -> int:
    return int(server.getsockname()[1])


def test_the_lan_address_has_to_be_one_of_this_host() -> None:
    assert check_lan_address(HERE, KNOWN).status == "ok"
    assert check_lan_address(None, KNOWN).status == "failure"
    strange = check_lan_address("192.0.2.77", KNOWN)
    assert strange.status == "failure"
    assert "LAN_IP=192.0.2.77" in strange.detail
    assert f"{HERE}, {ELSEWHERE}" in strange.remedy
    assert NOWHERE not in strange.remedy, "a tunnel's address is not the LAN's"


def test_a_port_is_free_or_ours_or_another_s(listener: socket.socket) -> None:
    port = Port("GATEWAY_PORT", port_of(listener), ("llamacpp", "vllm"))
    (free,) = check_ports(HERE, [port], [])
    assert (free.status, "is free" in free.detail) == ("ok", True)
    (taken,) = check_ports(ELSEWHERE, [port], [])
    assert taken.status == "failure"
    assert f"GATEWAY_PORT={port.number}" in taken.detail
    assert "ss -ltnp" in taken.remedy
    (ours,) = check_ports(ELSEWHERE, [port], [Container("vllm", "running", "healthy", 0)])
    assert (ours.status, "vllm" in ours.detail) == ("ok", True)
    (stopped,) = check_ports(ELSEWHERE, [port], [Container("vllm", "exited", "", 1)])
    assert stopped.status == "failure"


def test_that_the_address_is_missing_is_not_the_port_s_fault() -> None:
    (found,) = check_ports("192.0.2.77", [Port("PORT", 8001, ())], [])
    assert found.status == "ok"


def test_a_port_that_answers_where_it_should_not_is_found(listener: socket.socket) -> None:
    port = Port("PORT", port_of(listener), ("orchestrator",))
    found = check_exposure(HERE, [port], KNOWN)
    assert found.status == "failure"
    assert f"{ELSEWHERE}:{port.number}" in found.detail
    assert f"{NOWHERE}:{port.number}" not in found.detail
    published_there = check_exposure(ELSEWHERE, [port], KNOWN)
    assert published_there.status == "ok"
    assert "other host" in published_there.detail


def test_a_known_port_of_the_neighbour_must_not_answer(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = port_of(listener)
    monkeypatch.setattr(network, "KNOWN", {number: "Redis"})
    found = check_neighbour(ELSEWHERE, frozenset())
    assert (found.status, f"{number} (Redis)" in found.detail) == ("failure", True)
    assert check_neighbour(ELSEWHERE, frozenset({number})).status == "ok", "it is to be there"
    assert check_neighbour(NOWHERE, frozenset()).status == "ok"


def test_every_port_of_both_stacks_is_known() -> None:
    assert {2375, 3000, 5432, 6333, 6379, 8000, 8001, 8080, 8081, 8082, 9000} <= set(network.KNOWN)


def test_a_port_that_says_nothing_holds_nobody_up(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "KNOCK_S", 0.3)
    with socket.socket() as full:
        full.bind((NOWHERE, 0))
        full.listen(0)
        callers = [socket.socket() for _ in range(8)]
        for caller in callers:
            caller.setblocking(False)
            caller.connect_ex(full.getsockname())
        targets = [(NOWHERE, port_of(full)), (ELSEWHERE, port_of(listener))]
        assert open_ports(targets) == [targets[1]]
        for caller in callers:
            caller.close()


def runner(status: int | None, out: str = "", error: str = "") -> Runner:
    return lambda _: Output(status, out, error)


def test_rules_that_are_in_place_are_well_and_others_name_the_command() -> None:
    there = check_firewall(runner(0, "Ports 8000 of 10.0.0.1 are reachable.\n"), "brain", "", 0)
    assert (there.status, "reachable" in there.detail) == ("ok", True)
    error = "firewall.sh: the rules are not in place. Run: sudo firewall.sh apply"
    gone = check_firewall(runner(1, "IPv4: missing: -A X\n", error), "brain", "", 0)
    assert (gone.status, gone.detail) == ("warning", "the rules are not in place.")
    assert "firewall.sh apply" in gone.remedy
    none = check_firewall(runner(None, error="firewall.sh: No such file"), "brain", "", 0)
    assert none.status == "warning"


def test_the_command_names_another_file_of_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VARIET_ENV_FILE", "/srv/brain.env")
    for uid in (0, 1000):
        found = check_firewall(runner(1, "", "not there"), "brain", "", uid)
        assert "firewall.sh apply --env-file /srv/brain.env" in found.remedy
    monkeypatch.delenv("VARIET_ENV_FILE")
    assert "--env-file" not in check_firewall(runner(1, "", "not there"), "brain", "", 0).remedy


def test_without_root_the_unit_tells_whether_the_rules_were_applied() -> None:
    assert check_firewall(runner(0, "active\n"), "brain", "", 1000).status == "ok"
    unknown = check_firewall(runner(3, "inactive\n"), "brain", "", 1000)
    assert (unknown.status, "Only root" in unknown.detail) == ("warning", True)


def test_a_workstation_on_loopback_needs_no_firewall() -> None:
    assert check_firewall(runner(1), "hands", "127.0.0.1", 1000).status == "ok"
    assert check_firewall(runner(1), "hands", "192.168.7.2", 1000).status == "warning"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_real_script_says_what_is_wrong_with_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VARIET_ENV_FILE", "no-such-file.env")
    found = check_firewall(run, "brain", "", 0)
    assert (found.status, "no-such-file.env" in found.detail) == ("warning", True)
    assert found.remedy.startswith("variet init")
