"""Whether an engine may be made as asked, and what Docker is told to make.

What is told is built here, key by key, of checked values. Nothing of the request's body is passed
on as it came.
"""

import re
from typing import Any

from contracts.broker import DockerHost, EngineImage
from services.broker.body import Create, DeviceRequest, HostPart
from services.broker.kinds import KINDS, Kind, Mount, mounts_of
from services.broker.queries import ENGINE_LABEL, PROJECT_LABEL
from services.broker.refusal import Refusal, shown
from services.broker.words import check_words

MIB = 2**20
NO_NEW = "no-new-privileges:true"
COMPOSE = "com.docker.compose."
LABELS = {
    PROJECT_LABEL: re.compile(r".+"),
    ENGINE_LABEL: re.compile(r"[a-z0-9][a-z0-9._@-]{0,127}"),
    "variet.fingerprint": re.compile(r"[0-9a-f]{1,64}"),
    "variet.context": re.compile(r"\d{1,9}"),
    f"{COMPOSE}service": re.compile(r"engines|engine-[a-z0-9][a-z0-9._-]{0,127}"),
    f"{COMPOSE}container-number": re.compile(r"\d{1,4}"),
    f"{COMPOSE}oneoff": re.compile(r"False"),
    f"{COMPOSE}config-hash": re.compile(r"[0-9a-z]{1,64}"),
    f"{COMPOSE}version": re.compile(r"[0-9a-z.+-]{1,32}"),
    f"{COMPOSE}depends_on": re.compile(r""),
    f"{COMPOSE}image": re.compile(r"[a-zA-Z0-9:._/@-]{0,256}"),
}
# Without the latter Compose sees no container of its own, and `down` leaves it.
NEEDED = (
    ENGINE_LABEL,
    *(f"{COMPOSE}{name}" for name in ("service", "container-number", "oneoff", "config-hash")),
)
TMPFS_OPTION = re.compile(r"rw|noexec|nosuid|nodev|mode=[01]?[0-7]{3}|size=\d{1,12}[kmg]?")
CARD = re.compile(r"\d{1,2}|GPU-[0-9a-f-]{8,64}")
# Used where a request names no log, so that none grows without end.
LOG_OPTIONS = {"max-size": "10m", "max-file": "3"}


def engine_body(asked: Create, host: DockerHost) -> dict[str, Any]:
    """The body for Docker. Raises Refusal that names the key, its value and the reason."""
    name = host.kind_of(asked.Image)
    if name is None:
        known = ", ".join(host.images.values())
        raise Refusal(f"create: Image={shown(asked.Image)} is none of {known}")
    kind = KINDS[name]
    words = asked.Cmd or []
    check_words(name, words)
    made: dict[str, Any] = {
        "Image": host.images[name],
        "Cmd": words,
        "Env": _environment(asked.Env or [], kind),
        "Labels": _labels(asked.Labels, host),
        "User": _fixed("User", asked.User, "" if kind.root else host.user),
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": _host_config(asked.HostConfig, name, host),
        "NetworkingConfig": _networks(asked, host.networks[name]),
    }
    entrypoint = _fixed("Entrypoint", list(asked.Entrypoint or []), list(kind.entrypoint))
    if entrypoint:
        made["Entrypoint"] = entrypoint
    if asked.StopSignal:
        made["StopSignal"] = asked.StopSignal
    if asked.StopTimeout is not None:
        made["StopTimeout"] = asked.StopTimeout
    return made


def _fixed(key: str, asked: Any, only: Any) -> Any:
    if asked and asked != only:
        said = f"has to be {shown(only)}" if only else "is not the engines' to set"
        raise Refusal(f"create: {key}={shown(asked)} {said}")
    return only


def _environment(asked: list[str], kind: Kind) -> list[str]:
    names = set()
    for entry in asked:
        name, equals, value = entry.partition("=")
        if not equals or "\0" in value:
            raise Refusal(f"create: Env {shown(name)} has no value that can be set")
        if name not in kind.env or name in names:
            why = "stands twice" if name in names else "is not among the names for this engine"
            raise Refusal(f"create: Env {shown(name)} {why}")
        names.add(name)
    return asked


def _labels(asked: dict[str, str], host: DockerHost) -> dict[str, str]:
    if asked.get(PROJECT_LABEL) != host.project:
        value = shown(asked.get(PROJECT_LABEL))
        raise Refusal(f"create: the label {PROJECT_LABEL}={value} has to be {host.project}")
    for name in NEEDED:
        if name not in asked:
            raise Refusal(f"create: the label {name} is missing")
    for name, value in asked.items():
        pattern = LABELS.get(name)
        if pattern is None or not pattern.fullmatch(value):
            raise Refusal(f"create: the label {shown(name)}={shown(value)} is not allowed")
    return asked


def _networks(asked: Create, network: str) -> dict[str, Any]:
    given = (asked.NetworkingConfig and asked.NetworkingConfig.EndpointsConfig) or {}
    for name in given:
        if name != network:
            raise Refusal(f"create: the network {shown(name)} is not {network}")
    return {"EndpointsConfig": {network: {}}}


def _host_config(asked: HostPart, name: EngineImage, host: DockerHost) -> dict[str, Any]:
    kind = KINDS[name]
    made: dict[str, Any] = {
        "NetworkMode": _fixed("NetworkMode", asked.NetworkMode, host.networks[name]),
        "Mounts": _mounts(asked, mounts_of(name, host)),
        "CapDrop": _fixed("CapDrop", asked.CapDrop, ["ALL"]),
        "CapAdd": _capabilities(asked.CapAdd or [], kind),
        "SecurityOpt": _security(asked.SecurityOpt or [NO_NEW]),
        "ReadonlyRootfs": _read_only(asked.ReadonlyRootfs, kind),
        "Tmpfs": _tmpfs(asked.Tmpfs or {}),
        "LogConfig": _log(asked),
        "RestartPolicy": {"Name": "no"},
        "Privileged": False,
        **_limits(asked, kind, host),
    }
    if asked.DeviceRequests:
        made["DeviceRequests"] = [_cards(one, host) for one in asked.DeviceRequests]
    if asked.Init is not None:
        made["Init"] = asked.Init
    for key in ("IpcMode", "CgroupnsMode"):
        if getattr(asked, key):
            made[key] = "private"
    return made


def _mounts(asked: HostPart, allowed: tuple[Mount, ...]) -> list[dict[str, Any]]:
    made, targets = [], set()
    for one in asked.Mounts or []:
        mount = Mount(one.Type, one.Source, one.Target, bool(one.ReadOnly))
        if mount not in allowed or mount.target in targets:
            mode = "read-only" if mount.read_only else "read-write"
            raise Refusal(
                f"create: Mounts: the {mount.type} {shown(mount.source)} at"
                f" {shown(mount.target)}, {mode}, is not one of this engine's"
            )
        targets.add(mount.target)
        made.append(
            {
                "Type": mount.type,
                "Source": mount.source,
                "Target": mount.target,
                "ReadOnly": mount.read_only,
            }
        )
    return made


def _capabilities(asked: list[str], kind: Kind) -> list[str]:
    plain = list(dict.fromkeys(name.removeprefix("CAP_") for name in asked))
    for name in plain:
        if name not in kind.cap_add:
            raise Refusal(f"create: CapAdd {shown(name)} is not allowed for this engine")
    return plain


def _security(asked: list[str]) -> list[str]:
    if asked not in ([NO_NEW], ["no-new-privileges"]):
        raise Refusal(f"create: SecurityOpt={shown(asked)} has to be [{NO_NEW}]")
    return [NO_NEW]


def _read_only(asked: bool | None, kind: Kind) -> bool:
    if kind.writable_root:
        return bool(asked)
    if asked is False:
        raise Refusal("create: ReadonlyRootfs=False has to be True for this engine")
    return True


def _tmpfs(asked: dict[str, str]) -> dict[str, str]:
    for target, options in asked.items():
        wrong = [o for o in options.split(",") if o and not TMPFS_OPTION.fullmatch(o)]
        if target != "/tmp" or wrong:
            raise Refusal(f"create: Tmpfs {shown(target)}={shown(options)} is not allowed")
    return asked


def _log(asked: HostPart) -> dict[str, Any]:
    log = asked.LogConfig
    if log is None:
        return {"Type": "json-file", "Config": LOG_OPTIONS}
    options = log.Config.model_dump(by_alias=True, exclude_none=True) if log.Config else {}
    return {"Type": log.Type, "Config": LOG_OPTIONS | options}


def _limits(asked: HostPart, kind: Kind, host: DockerHost) -> dict[str, int]:
    memory = _bounded("Memory", asked.Memory, host.memory_mib * MIB)
    made = {
        "Memory": memory,
        "NanoCpus": _bounded("NanoCpus", asked.NanoCpus, round(host.cpus * 1e9)),
        "PidsLimit": _bounded("PidsLimit", asked.PidsLimit, kind.pids),
    }
    if asked.MemorySwap:
        # Memory and swap together: neither less than the memory, nor without end.
        if asked.MemorySwap < memory:
            raise Refusal(f"create: MemorySwap={asked.MemorySwap} is less than Memory, or endless")
        made["MemorySwap"] = _bounded("MemorySwap", asked.MemorySwap, 2 * memory)
    if asked.ShmSize:
        made["ShmSize"] = _bounded("ShmSize", asked.ShmSize, kind.shm)
    return made


def _bounded(key: str, asked: int | None, most: int) -> int:
    if asked is None or not 0 < asked <= most:
        raise Refusal(f"create: {key}={shown(asked)} has to be from 1 to {most}")
    return asked


def _cards(asked: DeviceRequest, host: DockerHost) -> dict[str, Any]:
    if not host.gpu:
        raise Refusal("create: DeviceRequests: this host's engines have no cards")
    if asked.Capabilities != [["gpu"]]:
        raise Refusal(f"create: DeviceRequests: Capabilities={shown(asked.Capabilities)}")
    cards = asked.DeviceIDs or []
    for card in cards:
        if not CARD.fullmatch(card):
            raise Refusal(f"create: DeviceRequests: DeviceIDs {shown(card)} is no card")
    if cards and asked.Count:
        raise Refusal("create: DeviceRequests has either Count or DeviceIDs")
    made: dict[str, Any] = {"Driver": "nvidia", "Capabilities": [["gpu"]]}
    return made | ({"DeviceIDs": cards} if cards else {"Count": asked.Count or -1})
