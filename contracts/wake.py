"""Wake-on-LAN: the packet that wakes a machine whose network card listens while it sleeps.

A broadcast of 255.255.255.255 reaches a host's own network only, and from a container on a bridge
not even that. So the packet also goes to the machine's own address and to the broadcast address of
its /24: a router forwards those, and from a container they pass through the host's routes.
"""

import re
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, ip_address

PORT = 9
EVERYWHERE = "255.255.255.255"
MAC = re.compile(r"[0-9A-Fa-f]{2}([:-]?)[0-9A-Fa-f]{2}(\1[0-9A-Fa-f]{2}){4}")


def mac_bytes(mac: str) -> bytes:
    """The six bytes of `AA:BB:CC:DD:EE:FF`, with colons, hyphens or nothing between them. Raises
    ValueError, also for an address that is no single card's."""
    if not MAC.fullmatch(mac):
        raise ValueError("has to be a network card's address such as 1c:69:7a:0b:2d:3e")
    raw = bytes.fromhex(re.sub(r"[:-]", "", mac))
    if raw[0] & 1 or not any(raw):
        raise ValueError("is no address of one network card")
    return raw


def magic_packet(mac: str) -> bytes:
    """The 102 bytes that a sleeping card looks for. Raises ValueError."""
    return b"\xff" * 6 + mac_bytes(mac) * 16


def targets(host: str) -> tuple[str, ...]:
    """Where to send the packet for the machine `host`, an address or a name."""
    try:
        address = ip_address(_resolved(host))
    except (OSError, ValueError):
        return (EVERYWHERE,)
    if not isinstance(address, IPv4Address) or address.is_loopback:
        return (EVERYWHERE,)
    network = IPv4Network((address, 24), strict=False)
    return EVERYWHERE, str(network.broadcast_address), str(address)


def wake(mac: str, addresses: Iterable[str], port: int = PORT) -> tuple[str, ...]:
    """Send the packet once to each address; those that it could be sent to. Raises ValueError for a
    wrong `mac`. That a packet was sent does not say that anything woke."""
    packet = magic_packet(mac)
    sent = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for address in addresses:
            try:
                sender.sendto(packet, (address, port))
            except OSError:
                # A host without a route to one of them may still reach another.
                continue
            sent.append(address)
    return tuple(sent)


def _resolved(host: str) -> str:
    return socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0]  # type: ignore[return-value]
