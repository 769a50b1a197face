"""What holds for every service of both stacks, on the file that Compose has rendered.

`breaches` gives a line for everything that breaks a rule; none means that all is well.
"""

from collections.abc import Callable, Iterator
from typing import Any

from tests.compose.rendering import Config

Service = dict[str, Any]
Rule = Callable[[str, Service, Config], Iterator[str]]

OURS = "variet/"
# Each capability that an image needs, with what it does with it; see docs/stack.md.
CAPABILITIES = {
    "postgres": {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"},
    "seaweedfs": {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"},
    "redis": {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"},
    "searxng": {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"},
}
# Their images write beside their programs, or nobody has shown that they do not.
WRITABLE_ROOT = {
    *("langfuse-web", "langfuse-worker", "clickhouse", "seaweedfs", "searxng"),
}
# They ask the brain, or search the web. The gateway, which meets engines that fetch models, is not
# among them: see `leaves_by`.
MAY_GO_OUT = {"orchestrator", "searxng"}
# It has no network.
HOLDS_DOCKER = {"broker"}
MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
NO_HOST = "com.docker.network.bridge.inhibit_ipv4"


def breaches(config: Config, images: set[str], address: str) -> list[str]:
    """`images`: those of the list. `address`: the only one that ports may be published on."""
    found = [
        f"{name}: {line}"
        for name, service in config["services"].items()
        # Of the others only the image is fetched.
        if service.get("deploy", {}).get("replicas") != 0
        for rule in (*RULES, from_list(images), published_on(address))
        for line in rule(name, service, config)
    ]
    if "version" in config:
        found.append("`version` is obsolete")
    return found


def from_list(images: set[str]) -> Rule:
    def rule(name: str, service: Service, config: Config) -> Iterator[str]:
        image = service["image"]
        tag = image.partition("@")[0].rpartition("/")[2].partition(":")[2]
        if not tag or tag == "latest":
            yield f"{image} is not pinned"
        if image not in images and not image.startswith(OURS):
            yield f"{image} is not in the list of images"

    return rule


def published_on(address: str) -> Rule:
    def rule(name: str, service: Service, config: Config) -> Iterator[str]:
        for port in service.get("ports", []):
            if port.get("host_ip") != address:
                yield f"port {port.get('published')} is published on {port.get('host_ip')}"

    return rule


def has_health_check(name: str, service: Service, config: Config) -> Iterator[str]:
    check = service.get("healthcheck", {})
    if not check.get("test") or check.get("disable"):
        yield "no health check"
        return
    for key in ("interval", "timeout", "retries", "start_period", "start_interval"):
        if not check.get(key):
            yield f"its health check has no {key}"
    if any("//localhost" in word for word in check["test"]):
        yield "its health check asks localhost, which may be ::1"


def has_limits(name: str, service: Service, config: Config) -> Iterator[str]:
    limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
    for key in ("memory", "cpus", "pids"):
        if not float(limits.get(key) or 0) > 0:
            yield f"no limit of {key}"


def rotates_its_log(name: str, service: Service, config: Config) -> Iterator[str]:
    logging = service.get("logging", {})
    if not {"max-size", "max-file"} <= logging.get("options", {}).keys():
        yield "its log grows without end"


def restarts(name: str, service: Service, config: Config) -> Iterator[str]:
    if service.get("restart") != "unless-stopped":
        yield "is not restarted"
    if not service.get("stop_grace_period"):
        yield "has no time to stop"


def gains_nothing(name: str, service: Service, config: Config) -> Iterator[str]:
    if "no-new-privileges:true" not in service.get("security_opt", []):
        yield "may gain privileges"
    if service.get("cap_drop") != ["ALL"]:
        yield "keeps capabilities"
    if more := set(service.get("cap_add", [])) - CAPABILITIES.get(name, set()):
        yield f"adds the capabilities {', '.join(sorted(more))}"
    for key in ("privileged", "network_mode", "pid", "ipc", "devices", "userns_mode"):
        alone = key == "network_mode" and service.get(key) == "none"
        if service.get(key) and not alone:
            yield f"has {key}"


def keeps_its_root(name: str, service: Service, config: Config) -> Iterator[str]:
    if not service.get("read_only") and name not in WRITABLE_ROOT:
        yield "its root file system is writable"


def mounts_what_exists(name: str, service: Service, config: Config) -> Iterator[str]:
    for mount in service.get("volumes", []):
        source = str(mount.get("source", ""))
        if mount["type"] == "bind" and mount.get("bind", {}).get("create_host_path"):
            yield f"{source} would be made by Docker, and belong to root"
        if source.endswith("docker.sock") and name not in HOLDS_DOCKER:
            yield "holds the Docker engine"


def goes_out_only_if_it_must(name: str, service: Service, config: Config) -> Iterator[str]:
    if service.get("network_mode") == "none":
        return
    networks = [config["networks"][key] for key in service.get("networks", {})]
    if not networks or "default" in service["networks"]:
        yield "names no network"
    ways = [network for network in networks if not network.get("internal")]
    out = leaves_by(service, config)
    if service.get("ports") and not ways:
        yield "is on internal networks only, so its port is not published"
    if out and name not in MAY_GO_OUT:
        yield "can reach the internet"
    inner = [network for network in networks if network.get("internal")]
    if any(network.get("driver_opts", {}).get(NO_HOST) != "true" for network in inner):
        yield "meets its host on an internal network"


def leaves_by(service: Service, config: Config) -> bool:
    """Whether packets to the internet find their way back. Docker takes the first network by name
    that is not internal for the default route."""
    ways = sorted(k for k in service["networks"] if not config["networks"][k].get("internal"))
    if not ways:
        return False
    return bool(config["networks"][ways[0]].get("driver_opts", {}).get(MASQUERADE) != "false")


def waits_for_health(name: str, service: Service, config: Config) -> Iterator[str]:
    for other, wait in service.get("depends_on", {}).items():
        if wait["required"] and other not in config["services"]:
            yield f"waits for {other}, which is not there"
        if wait["condition"] != "service_healthy":
            yield f"does not wait until {other} is healthy"


RULES: tuple[Rule, ...] = (
    has_health_check,
    has_limits,
    rotates_its_log,
    restarts,
    gains_nothing,
    keeps_its_root,
    mounts_what_exists,
    goes_out_only_if_it_must,
    waits_for_health,
)
