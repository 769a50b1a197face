"""Addresses and ports: what this host publishes, where, and what another one can reach."""

import asyncio
import errno
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cli.compose import Container
from cli.doctor.finding import Finding, failure, ok, warning
from cli.host.addresses import Address
from cli.host.command import Runner
from contracts.deployment import Role
from contracts.settings import LOOPBACK, REPOSITORY
from contracts.settings_reading import env_file

FIREWALL = REPOSITORY / "services/firewall/firewall.sh"
UNIT = "variet-firewall.service"
KNOCK_S = 1.5
OTHER_HOST = "Only the other host can tell what it reaches: run variet doctor there as well."
# What the parts of both stacks, and their usual neighbours, listen on. None asks all comers for
# a key, or none should be there.
KNOWN = {
    2019: "Caddy's control port",
    2375: "Docker without TLS",
    2376: "Docker",
    3000: "Langfuse",
    3030: "Langfuse's worker",
    5432: "PostgreSQL",
    6333: "Qdrant",
    6334: "Qdrant's gRPC",
    6379: "Redis",
    8000: "a gateway, or an engine",
    8001: "an orchestrator",
    8080: "llama-server or SearXNG",
    8081: "an embeddings server",
    8082: "a reranking server",
    8123: "ClickHouse",
    8333: "an S3 store",
    8888: "an S3 store's files",
    9000: "ClickHouse",
    9333: "an S3 store's master",
    11434: "Ollama",
    23646: "an S3 store's administration",
}


@dataclass(frozen=True)
class Port:
    """A port that this host publishes, with the setting that says so and the services, one of
    which is behind it."""

    setting: str
    number: int
    services: tuple[str, ...]


def check_lan_address(ip: str | None, known: Iterable[Address]) -> Finding:
    if ip is None:
        return failure("lan address", "LAN_IP is not set.", "Run: variet init")
    if assignable(ip):
        return ok("lan address", f"LAN_IP={ip} is an address of this host")
    others = ", ".join(one.ip for one in known if not one.virtual) or "none on a LAN"
    return failure(
        "lan address",
        f"LAN_IP={ip} is no address of this host, so that Docker cannot publish there.",
        f"Correct LAN_IP; addresses of this host: {others}. A fixed address, set in the router,"
        " keeps it so.",
    )


def assignable(ip: str) -> bool:
    """Whether this host has the address."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((ip, 0))
        except OSError:
            return False
    return True


def check_ports(address: str, ports: list[Port], containers: list[Container]) -> Iterator[Finding]:
    """Whether each port is free, or taken by the container that it is for."""
    running = {one.service for one in containers if one.state == "running"}
    for port in ports:
        name, where = f"port {port.number}", f"{address}:{port.number}"
        if ours := running.intersection(port.services):
            yield ok(name, f"{where} is that of {', '.join(sorted(ours))}")
            continue
        problem = _taken(address, port.number)
        if problem == errno.EADDRINUSE:
            yield failure(
                name,
                f"{port.setting}={port.number}: another program listens at {where}.",
                f"Find it: sudo ss -ltnp 'sport = :{port.number}'; stop it, or change"
                f" {port.setting}.",
            )
        elif problem:
            yield failure(
                name,
                f"{port.setting}={port.number}: {where}: {errno.errorcode.get(problem, problem)}.",
                f"Correct {port.setting}.",
            )
        else:
            yield ok(name, f"{where} is free")


def _taken(address: str, port: int) -> int:
    """0 if one could listen there, else why not, as errno. Another address of this host does not
    count; that the address itself is missing is another check's matter."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen()
        except OSError as error:
            return 0 if error.errno == errno.EADDRNOTAVAIL else error.errno or errno.EINVAL
    return 0


def check_exposure(bound: str, ports: list[Port], known: Iterable[Address]) -> Finding:
    """Whether a published port answers at an address of this host where it should not: `bound`,
    and loopback, are those where it may."""
    addresses = [one.ip for one in known if one.ip != bound]
    targets = [(ip, port.number) for ip in addresses for port in ports]
    wrong = open_ports(targets)
    if wrong:
        return failure(
            "exposure",
            f"Answers, but is to be published at {bound} only: {_listed(wrong)}.",
            "Look for `ports:` without an address, and for programs outside Docker:"
            " sudo ss -ltnp. " + OTHER_HOST,
        )
    numbers = ", ".join(str(port.number) for port in ports)
    return ok(
        "exposure",
        f"{numbers}: nothing at the {len(addresses)} other addresses of this host. {OTHER_HOST}",
    )


def check_neighbour(host: str, published: frozenset[int]) -> Finding:
    """Whether the other host answers at any known port besides those that it is to publish."""
    targets = [(host, port) for port in sorted(KNOWN.keys() - published)]
    wrong = open_ports(targets)
    if not wrong:
        return ok("brain's other ports", f"none of {len(targets)} known ports of {host} answers")
    named = ", ".join(f"{port} ({KNOWN[port]})" for _, port in wrong)
    return failure(
        "brain's other ports",
        f"{host} answers at ports that nobody on the network should reach: {named}.",
        f"On the brain: sudo ss -ltnp shows what listens; bind it to 127.0.0.1, or stop it."
        f" Docker's published ports: {FIREWALL.relative_to(REPOSITORY)} show",
    )


def open_ports(targets: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Those at which something takes a TCP connection."""
    return asyncio.run(_open_ports(targets))


async def _open_ports(targets: list[tuple[str, int]]) -> list[tuple[str, int]]:
    answered = await asyncio.gather(*(_answers(host, port) for host, port in targets))
    return [target for target, answers in zip(targets, answered, strict=True) if answers]


async def _answers(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(KNOCK_S):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


def check_firewall(run: Runner, role: Role, bind_addr: str, uid: int) -> Finding:
    """Whether the rules are in place that let only the other host in. Only root can read them;
    anyone can see whether the systemd unit that applies them has."""
    if role == "hands" and bind_addr in LOOPBACK:
        return ok("firewall", "not needed: nothing is published on the LAN")
    # sudo keeps no VARIET_ENV_FILE.
    file = env_file()
    named = "" if file == REPOSITORY / ".env" else f" --env-file {file}"
    remedy = f"sudo {FIREWALL} apply{named} (what that does: {FIREWALL} show{named})"
    if uid == 0:
        done = run((str(FIREWALL), "check"))
        if done.ok:
            return ok("firewall", done.out.strip())
        said = (done.error or done.out).strip().splitlines() or ["it ended without a word."]
        detail, _, mend = said[-1].removeprefix(f"{FIREWALL.name}: ").partition(" Run: ")
        return warning("firewall", detail, remedy if done.status == 1 else f"{mend}; then {remedy}")
    if run(("systemctl", "is-active", UNIT)).ok:
        return ok("firewall", f"{UNIT} has applied the rules")
    return warning(
        "firewall",
        "Only root can see whether the rules are in place that admit the other host alone.",
        f"sudo {FIREWALL} check{named}; if they are not: {remedy}",
    )


def _listed(targets: list[tuple[str, int]]) -> str:
    return ", ".join(f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}" for ip, port in targets)
