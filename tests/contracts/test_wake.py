"""The packet that wakes a machine, as a socket receives it."""

import socket

import pytest

from contracts.errors import SettingsError
from contracts.settings import load_settings
from contracts.wake import EVERYWHERE, mac_bytes, magic_packet, targets, wake

MAC = "1c:69:7a:0b:2d:3e"
RAW = bytes.fromhex("1c697a0b2d3e")


def test_the_packet_is_received_as_the_standard_says() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(30)
        port = receiver.getsockname()[1]
        assert wake(MAC, ["127.0.0.1"], port) == ("127.0.0.1",)
        received, _ = receiver.recvfrom(2_048)
    assert received == b"\xff" * 6 + RAW * 16


def test_a_broadcast_may_be_sent() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("", 0))
        receiver.settimeout(30)
        port = receiver.getsockname()[1]
        # Loopback's broadcast: it reaches this machine, and needs the permission all the same.
        assert wake(MAC, ["127.255.255.255"], port) == ("127.255.255.255",)
        received, _ = receiver.recvfrom(2_048)
    assert received == magic_packet(MAC)


def test_it_goes_to_the_network_s_broadcast_and_to_the_machine_itself() -> None:
    assert targets("192.168.7.20") == (EVERYWHERE, "192.168.7.255", "192.168.7.20")
    assert targets("no-such-host.invalid") == (EVERYWHERE,)
    assert targets("127.0.0.1") == (EVERYWHERE,)


def test_an_address_that_cannot_be_reached_stops_no_other() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(30)
        port = receiver.getsockname()[1]
        assert wake(MAC, ["0.0.0.256", "127.0.0.1"], port) == ("127.0.0.1",)
        assert receiver.recvfrom(2_048)[0] == magic_packet(MAC)


@pytest.mark.parametrize("text", ["1c-69-7a-0b-2d-3e", "1C697A0B2D3E", MAC])
def test_a_card_s_address_may_be_written_in_three_ways(text: str) -> None:
    assert mac_bytes(text) == RAW


@pytest.mark.parametrize(
    "text", ["1c:69:7a:0b:2d", "1c:69-7a:0b:2d:3e", "xx:69:7a:0b:2d:3e", "ff:ff:ff:ff:ff:ff"]
)
def test_what_is_no_card_s_address_is_refused_by_its_setting(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRAIN_MAC", text)
    with pytest.raises(SettingsError, match=f"BRAIN_MAC={text}"):
        load_settings()
