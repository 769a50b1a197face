"""Wakes the brain over the network, and waits until it answers."""

import time
from collections.abc import Callable

from rich.console import Console

from cli.show import line
from cli.tiers_client import Gateway, gateway
from contracts.errors import SettingsError, Unavailable
from contracts.settings import Settings, load_settings
from contracts.wake import targets, wake

AGAIN_S = 1.0
HOW_TO = (
    "Set BRAIN_MAC to the address of its network card (`ip link` on the brain shows it), and switch"
    " Wake-on-LAN on in its firmware and with `ethtool -s CARD wol g`."
)


def wake_brain(url: str | None, console: Console) -> None:
    """The command: send the packet, whether or not the brain answers, and wait for it."""
    settings = load_settings()
    with gateway(url) as brain:
        _send(settings, brain.host, console)
        _wait(settings, brain, console)


def woken(brain: Gateway, console: Console) -> None:
    """Have the brain awake, where BRAIN_MAC says how; without it, whatever comes next tells."""
    settings = load_settings()
    if settings.brain_mac is None or brain.answers():
        return
    _send(settings, brain.host, console)
    _wait(settings, brain, console)


def _send(settings: Settings, host: str, console: Console) -> None:
    if settings.brain_mac is None:
        raise SettingsError("no_brain_mac", "BRAIN_MAC is not set: nothing can be woken.", HOW_TO)
    sent = wake(settings.brain_mac, targets(host))
    if not sent:
        raise Unavailable(
            "wake_not_sent",
            f"The packet that wakes {settings.brain_mac} could not be sent from this host.",
            "Connect it to the brain's network.",
        )
    line(console, f"waking {settings.brain_mac}: sent to {', '.join(sent)}", "dim")


def _wait(
    settings: Settings,
    brain: Gateway,
    console: Console,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    began = time.monotonic()
    while not brain.answers():
        if time.monotonic() - began > settings.brain_wake_s:
            raise Unavailable(
                "brain_asleep",
                f"{brain.url} did not answer within BRAIN_WAKE_S={settings.brain_wake_s:g} s.",
                HOW_TO + " A machine that takes longer needs a greater BRAIN_WAKE_S.",
            )
        pause(AGAIN_S)
    line(console, f"{brain.url} answers after {time.monotonic() - began:.0f} s", "green")
