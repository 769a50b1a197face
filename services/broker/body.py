"""The body of `create`, closed at every level: what is not here is refused.

Keys of the type Nothing are Docker's, and may only say nothing. What a key may say besides is
decided in `creation`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from services.broker.refusal import Refusal, shown
from services.broker.strict_json import read_json

MAX_BODY = 2**20


def _says_nothing(value: Any) -> None:
    # By type: 0 == False, and an integer is not said to be one where Docker wants text.
    if value is not None and value != "" and value is not False and value not in ([], {}):
        if type(value) is int and value == 0:
            return
        raise ValueError("is not the engines' to set")


def _is_null(value: Any) -> None:
    # Here an empty list is not the same as none: it would uncover /proc.
    if value is not None:
        raise ValueError("is not the engines' to set")


Nothing = Annotated[None, BeforeValidator(_says_nothing)]
Null = Annotated[None, BeforeValidator(_is_null)]
Text = Annotated[str, Field(max_length=8_192)]
Number = Annotated[int, Field(ge=-1, le=2**53)]


class Part(BaseModel):
    """Keys are Docker's own; no value is taken for one of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class MountPart(Part):
    Type: Literal["bind", "volume"]
    Source: Text
    Target: Text
    ReadOnly: bool | None = None
    Consistency: Nothing = None
    BindOptions: Nothing = None
    VolumeOptions: Nothing = None
    TmpfsOptions: Nothing = None
    ImageOptions: Nothing = None
    ClusterOptions: Nothing = None


class DeviceRequest(Part):
    Driver: Literal["nvidia", ""] | None = None
    Count: Number | None = None
    DeviceIDs: list[Text] | None = None
    Capabilities: list[list[Text]]
    Options: Nothing = None


class RestartPart(Part):
    Name: Literal["no", ""] | None = None
    MaximumRetryCount: Nothing = None


class LogOptions(Part):
    max_size: str | None = Field(None, alias="max-size", pattern=r"^\d{1,6}[km]$")
    max_file: str | None = Field(None, alias="max-file", pattern=r"^[1-9]\d?$")


class LogPart(Part):
    Type: Literal["json-file", "local"]
    Config: LogOptions | None = None


class HealthCheck(Part):
    Test: list[Literal["NONE"]] = Field(min_length=1, max_length=1)
    Interval: Nothing = None
    Timeout: Nothing = None
    Retries: Nothing = None
    StartPeriod: Nothing = None
    StartInterval: Nothing = None


class Endpoint(Part):
    IPAMConfig: Nothing = None
    Links: Nothing = None
    Aliases: Nothing = None
    MacAddress: Nothing = None
    DriverOpts: Nothing = None
    GwPriority: Nothing = None
    NetworkID: Nothing = None
    EndpointID: Nothing = None
    Gateway: Nothing = None
    IPAddress: Nothing = None
    IPPrefixLen: Nothing = None
    IPv6Gateway: Nothing = None
    GlobalIPv6Address: Nothing = None
    GlobalIPv6PrefixLen: Nothing = None
    DNSNames: Nothing = None


class NetworkPart(Part):
    EndpointsConfig: dict[str, Endpoint | None] | None = None


class HostPart(Part):
    NetworkMode: Text | None = None
    Mounts: list[MountPart] | None = Field(None, max_length=8)
    CapAdd: list[Text] | None = None
    CapDrop: list[Text] | None = None
    SecurityOpt: list[Text] | None = None
    ReadonlyRootfs: bool | None = None
    Tmpfs: dict[str, Text] | None = None
    Memory: Number | None = None
    MemorySwap: Number | None = None
    NanoCpus: Number | None = None
    PidsLimit: Number | None = None
    ShmSize: Number | None = None
    DeviceRequests: list[DeviceRequest] | None = Field(None, max_length=1)
    LogConfig: LogPart | None = None
    RestartPolicy: RestartPart | None = None
    Init: bool | None = None
    IpcMode: Literal["private", ""] | None = None
    CgroupnsMode: Literal["private", ""] | None = None
    MaskedPaths: Null = None
    ReadonlyPaths: Null = None
    MemorySwappiness: Null = None

    Annotations: Nothing = None
    AutoRemove: Nothing = None
    Binds: Nothing = None
    BlkioDeviceReadBps: Nothing = None
    BlkioDeviceReadIOps: Nothing = None
    BlkioDeviceWriteBps: Nothing = None
    BlkioDeviceWriteIOps: Nothing = None
    BlkioWeight: Nothing = None
    BlkioWeightDevice: Nothing = None
    Cgroup: Nothing = None
    CgroupParent: Nothing = None
    ConsoleSize: Nothing = None
    ContainerIDFile: Nothing = None
    CpuCount: Nothing = None
    CpuPercent: Nothing = None
    CpuPeriod: Nothing = None
    CpuQuota: Nothing = None
    CpuRealtimePeriod: Nothing = None
    CpuRealtimeRuntime: Nothing = None
    CpuShares: Nothing = None
    CpusetCpus: Nothing = None
    CpusetMems: Nothing = None
    DeviceCgroupRules: Nothing = None
    Devices: Nothing = None
    Dns: Nothing = None
    DnsOptions: Nothing = None
    DnsSearch: Nothing = None
    ExtraHosts: Nothing = None
    GroupAdd: Nothing = None
    IOMaximumBandwidth: Nothing = None
    IOMaximumIOps: Nothing = None
    Isolation: Nothing = None
    KernelMemory: Nothing = None
    KernelMemoryTCP: Nothing = None
    Links: Nothing = None
    MemoryReservation: Nothing = None
    OomKillDisable: Nothing = None
    OomScoreAdj: Nothing = None
    PidMode: Nothing = None
    PortBindings: Nothing = None
    Privileged: Nothing = None
    PublishAllPorts: Nothing = None
    Runtime: Nothing = None
    StorageOpt: Nothing = None
    Sysctls: Nothing = None
    UTSMode: Nothing = None
    Ulimits: Nothing = None
    UsernsMode: Nothing = None
    VolumeDriver: Nothing = None
    VolumesFrom: Nothing = None


class Create(Part):
    Image: Text
    Cmd: list[Text] | None = None
    Env: list[Text] | None = Field(None, max_length=64)
    Labels: dict[str, Annotated[str, Field(max_length=256)]]
    Entrypoint: list[Text] | Literal[""] | None = None
    User: Text | None = None
    StopSignal: Literal["SIGTERM", "SIGINT", ""] | None = None
    StopTimeout: Annotated[int, Field(ge=0, le=600)] | None = None
    Healthcheck: HealthCheck | None = None
    HostConfig: HostPart
    NetworkingConfig: NetworkPart | None = None
    # Whoever starts it is not attached, whatever is said here; the SDK says that it would be.
    AttachStderr: bool | None = None
    AttachStdout: bool | None = None

    ArgsEscaped: Nothing = None
    AttachStdin: Nothing = None
    Domainname: Nothing = None
    ExposedPorts: Nothing = None
    Hostname: Nothing = None
    MacAddress: Nothing = None
    NetworkDisabled: Nothing = None
    OnBuild: Nothing = None
    OpenStdin: Nothing = None
    Runtime: Nothing = None
    Shell: Nothing = None
    StdinOnce: Nothing = None
    Tty: Nothing = None
    Volumes: Nothing = None
    WorkingDir: Nothing = None


def read_create(data: bytes) -> Create:
    """Raises Refusal that names each key at fault, with its value."""
    value = read_json(data, "the body")
    try:
        return Create.model_validate(value)
    except ValidationError as error:
        raise Refusal(f"create: {'; '.join(_problems(error))}") from error


def _problems(error: ValidationError) -> list[str]:
    first = error.errors()[:5]
    return [
        f"{shown('.'.join(map(str, e['loc'])), 80)}={shown(e['input'], 60)}:"
        f" {e['msg'].removeprefix('Value error, ')}"
        for e in first
    ]
