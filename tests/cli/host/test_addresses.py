import json
from collections.abc import Sequence

from cli.host.addresses import addresses, lan_address
from cli.host.command import Output

LINUX = [
    {"ifname": "lo", "addr_info": [{"family": "inet", "local": "127.0.0.1"}]},
    {"ifname": "docker0", "addr_info": [{"family": "inet", "local": "172.17.0.1"}]},
    {"ifname": "wlp3s0", "addr_info": [{"family": "inet", "local": "192.168.1.77"}]},
    {"ifname": "enp5s0", "addr_info": [{"family": "inet", "local": "192.168.1.20"}]},
    {"ifname": "enp6s0", "addr_info": [{"family": "inet", "local": "169.254.3.4"}]},
    {"ifname": "down0", "addr_info": []},
]
MAC = """\
lo0: flags=8049<UP,LOOPBACK,RUNNING,MULTICAST> mtu 16384
\tinet 127.0.0.1 netmask 0xff000000
en0: flags=8863<UP,BROADCAST,SMART,RUNNING,SIMPLEX,MULTICAST> mtu 1500
\tether f4:d4:88:00:00:00
\tinet6 fe80::10f%en0 prefixlen 64 secured scopeid 0xb
\tinet 192.168.1.31 netmask 0xffffff00 broadcast 192.168.1.255
utun4: flags=8051<UP,POINTOPOINT,RUNNING,MULTICAST> mtu 1380
\tinet 10.8.0.2 --> 10.8.0.2 netmask 0xffffffff
"""


def test_the_address_of_the_default_route_comes_first() -> None:
    found = addresses(lambda command: Output(0, json.dumps(LINUX)), route="192.168.1.20")
    assert [(one.interface, one.ip) for one in found] == [
        ("enp5s0", "192.168.1.20"),
        ("wlp3s0", "192.168.1.77"),
        ("docker0", "172.17.0.1"),
    ]
    assert lan_address(found) == "192.168.1.20"


def test_a_tunnel_is_not_the_lan_even_with_the_default_route() -> None:
    def run(command: Sequence[str]) -> Output:
        return Output(0, MAC) if command[0] == "ifconfig" else Output(None)

    assert lan_address(addresses(run, route="10.8.0.2")) == "192.168.1.31"


def test_without_either_program_the_route_is_known() -> None:
    found = addresses(lambda command: Output(None), route="192.168.1.5")
    assert [one.ip for one in found] == ["192.168.1.5"]
    assert addresses(lambda command: Output(0, "not json"), route="") == ()


def test_a_machine_with_a_public_address_only_proposes_none() -> None:
    link = [{"ifname": "eth0", "addr_info": [{"local": "8.8.4.4"}]}]
    assert (
        lan_address(addresses(lambda command: Output(0, json.dumps(link)), route="8.8.4.4")) is None
    )
