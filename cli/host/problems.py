"""What of a machine does not fit what it is to be, each with a remedy."""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from cli.host.answers import Answers
from cli.host.docker import COMPOSE_MIN, ENGINE_MIN
from cli.host.facts import Host
from cli.host.images import driver_problem, too_old
from cli.host.plan import engine_profile
from cli.host.proposal import cards_for
from cli.text import size
from contracts.deployment import not_an_address
from contracts.errors import SettingsError
from contracts.manifest import Manifest
from contracts.preset import HostPreset
from models.manifest import load_preset

DOCKER = "https://docs.docker.com/engine/install/"
TOOLKIT = "https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/"
HANDS_RAM_MIB = {"langfuse": 12_000}
HANDS_LEAST_MIB = 6_000
SPARE_BYTES = 5 * 10**9


@dataclass(frozen=True)
class Problem:
    """`fatal`: with it nothing of this would run, so nothing is written."""

    text: str
    remedy: str
    fatal: bool = False


def check_address(flag: str, ip: str) -> None:
    """Raises SettingsError that names the flag and the value."""
    if wrong := not_an_address(ip):
        raise SettingsError("bad_address", f"{flag}: {ip} {wrong}.", "Give one, like 192.168.1.20.")


def problems(answers: Answers, host: Host, manifest: Manifest, missing: int) -> Iterator[Problem]:
    """Everything that is wrong, the gravest first. `missing`: bytes of models still to fetch."""
    preset = load_preset(answers.preset, manifest=manifest) if answers.preset else None
    native = answers.role == "brain" and preset is not None and preset.native
    if answers.role == "brain" and preset is not None:
        yield from _cards(answers, preset, host, manifest)
        yield from _memory(preset.ram_mib, f"the preset {answers.preset}", host)
    else:
        yield from _hands_memory(answers, host)
    if not native:
        yield from _docker(host)
    if host.disk_free and host.disk_free < missing + SPARE_BYTES:
        yield Problem(
            f"{size(host.disk_free)} of disk are free; the models still to fetch take"
            f" {size(missing)}, the images of the stack several GB more",
            "Free some disk space, or set MODEL_STORE to another disk.",
        )
    yield from _address(answers, host)


def _cards(
    answers: Answers, preset: HostPreset, host: Host, manifest: Manifest
) -> Iterator[Problem]:
    if not preset.cards or preset.native:
        return
    wanted = " and ".join(f"{card.name} ({card.mib} MiB)" for card in preset.cards)
    if not host.gpus.cards:
        yield Problem(
            f"no NVIDIA card is to be seen ({host.gpus.problem}); {answers.preset} is for {wanted}",
            "Install NVIDIA's driver; or choose another preset: --preset cpu",
        )
        return
    if cards_for(preset, host) is None:
        found = " and ".join(f"{card.name} ({card.total_mib} MiB)" for card in host.gpus.cards)
        yield Problem(
            f"{answers.preset} is for {wanted}; this machine has {found}",
            "Choose a preset that fits: --preset NAME",
        )
    yield from _drivers(answers, preset, host, manifest)
    if host.docker.engine and not host.docker.nvidia:
        yield Problem(
            "Docker cannot give containers this machine's cards",
            f"Install the NVIDIA Container Toolkit: {TOOLKIT}",
        )


def _drivers(
    answers: Answers, preset: HostPreset, host: Host, manifest: Manifest
) -> Iterator[Problem]:
    engine = engine_profile(preset, answers.tier, manifest)
    llamacpp = answers.llamacpp or preset.images.llamacpp
    tei = answers.tei or preset.images.tei
    for variant in (llamacpp if engine == "llamacpp" else preset.images.vllm, tei):
        if variant is None or not (told := driver_problem(variant, host.gpus)):
            continue
        remedy = "Install a newer driver of NVIDIA."
        others = [t for t in preset.tiers if engine_profile(preset, t, manifest) == "llamacpp"]
        if variant == preset.images.vllm and others:
            remedy += f" Until then llama.cpp serves a smaller model: --tier {others[0]}"
        yield Problem(told, remedy, fatal=too_old(variant, host.gpus))


def _memory(needed_mib: int, what: str, host: Host) -> Iterator[Problem]:
    if 0 < host.ram_mib < needed_mib:
        yield Problem(
            f"this machine has {host.ram_mib} MiB of memory, and {what} wants {needed_mib}",
            "Choose a smaller preset or tier, or add memory.",
        )


def _hands_memory(answers: Answers, host: Host) -> Iterator[Problem]:
    profiles = answers.profiles or ()
    for name, needed in HANDS_RAM_MIB.items():
        if name in profiles and 0 < host.ram_mib < needed:
            rest = ",".join(one for one in profiles if one != name)
            yield Problem(
                f"this machine has {host.ram_mib} MiB of memory, and with the profile {name} the"
                f" stack wants {needed}",
                f"Leave it out: --profiles {rest or 'none'}",
            )
            return
    yield from _memory(HANDS_LEAST_MIB, "the workstation's stack", host)


def _docker(host: Host) -> Iterator[Problem]:
    found = host.docker
    if found.engine is None:
        yield Problem(
            f"Docker's engine cannot be used ({found.problem})",
            f"Install it ({DOCKER}), start it, and add yourself to the group docker.",
        )
    elif not found.engine_fits:
        yield Problem(
            f"Docker's engine is {found.engine}, older than {_dotted(ENGINE_MIN)}",
            f"Install a newer one: {DOCKER}",
        )
    if found.compose is None:
        yield Problem(
            f"Docker Compose cannot be used ({found.compose_problem})",
            "Install the package docker-compose-plugin.",
        )
    elif not found.compose_fits:
        yield Problem(
            f"Docker Compose is {found.compose}, older than {_dotted(COMPOSE_MIN)}",
            "Install a newer docker-compose-plugin.",
        )


def _address(answers: Answers, host: Host) -> Iterator[Problem]:
    ip = answers.lan_ip
    if ip is None:
        return
    if not host.has_address(ip) and not ip_address(ip).is_loopback:
        known = ", ".join(one.ip for one in host.addresses if not one.virtual) or "none"
        yield Problem(
            f"LAN_IP={ip} is no address of this machine (it has: {known})",
            "Nothing can be published there; give one of those: --lan-ip",
        )
    elif ip_address(ip).is_global:
        yield Problem(
            f"LAN_IP={ip} is a public address: the ports would be open to the internet",
            "Give the address on your LAN: --lan-ip",
        )


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
