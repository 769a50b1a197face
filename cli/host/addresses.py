"""Addresses of this machine on its networks."""

import json
import re
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address

from cli.host.command import Runner

# Interfaces that containers, virtual machines and tunnels make: an address there is not the LAN's.
VIRTUAL = re.compile(r"^(docker|br-|veth|virbr|vmnet|vboxnet|tun|tap|wg|utun|tailscale|zt|cni|lo)")
IFCONFIG_NAME = re.compile(r"^([A-Za-z0-9.:_-]+?):? ")
IFCONFIG_INET = re.compile(r"^\s+inet (?:addr:)?(\d+\.\d+\.\d+\.\d+)")
# No packet is sent: connecting a datagram socket only chooses the route. (RFC 5737, TEST-NET-3.)
FAR_AWAY = ("203.0.113.1", 9)


@dataclass(frozen=True)
class Address:
    """`default`: packets to other networks leave through it."""

    interface: str
    ip: str
    default: bool = False

    @property
    def virtual(self) -> bool:
        return bool(VIRTUAL.match(self.interface))


def addresses(run: Runner, route: str | None = None) -> tuple[Address, ...]:
    """IPv4 addresses that are not loopback, the likeliest LAN address first. `route`: the address
    of the default route, else the system is asked."""
    leaving = default_address() if route is None else route
    told = run(("ip", "-json", "-4", "addr"))
    found = _of_ip(told.out) if told.ok else _of_ifconfig(run(("ifconfig", "-a")).out)
    if leaving and leaving not in {ip for _, ip in found}:
        found.append(("", leaving))
    listed = [Address(name, ip, ip == leaving) for name, ip in found if _usable(ip)]
    return tuple(sorted(listed, key=lambda one: (one.virtual, not one.default, not _private(one))))


def lan_address(known: tuple[Address, ...]) -> str | None:
    """The address to propose: that of the default route, else the first private one."""
    return next((one.ip for one in known if not one.virtual and _private(one)), None)


def default_address() -> str:
    """The address that packets to other networks leave from; "" without such a route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(FAR_AWAY)
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def _of_ip(text: str) -> list[tuple[str, str]]:
    """From `ip -json`, of iproute2."""
    try:
        links = json.loads(text)
        return [(link["ifname"], entry["local"]) for link in links for entry in link["addr_info"]]
    except (ValueError, LookupError, TypeError):
        return []


def _of_ifconfig(text: str) -> list[tuple[str, str]]:
    """From `ifconfig`, of macOS and of old Linux systems."""
    found, name = [], ""
    for line in text.splitlines():
        if named := IFCONFIG_NAME.match(line):
            name = named[1]
        elif inet := IFCONFIG_INET.match(line):
            found.append((name, inet[1]))
    return found


def _usable(ip: str) -> bool:
    try:
        address = ip_address(ip)
    except ValueError:
        return False
    if not isinstance(address, IPv4Address):
        return False
    return not (address.is_loopback or address.is_link_local or address.is_unspecified)


def _private(one: Address) -> bool:
    return ip_address(one.ip).is_private
