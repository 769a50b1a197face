"""Both stacks keep the rules, whatever preset and profiles are chosen."""

from pathlib import Path

import pytest
import yaml

from cli.compose import ENGINES
from cli.compose import IMAGES as IMAGES_ONLY
from cli.host.answers import PROFILES
from contracts.manifest import Tier
from models.manifest import load_preset
from tests.compose import stacks
from tests.compose.rendering import Config, render
from tests.compose.rules import breaches

IMAGES = stacks.listed_images()
ALWAYS = {"orchestrator", "calibration", "logs", "workspace", "postgres"}
BY_PROFILE = {
    "qdrant": {"qdrant"},
    "langfuse": {"langfuse-web", "langfuse-worker", "clickhouse", "seaweedfs", "redis"},
    "searxng": {"searxng"},
}


def named(part: str | tuple[str, ...]) -> str:
    return part if isinstance(part, str) else "+".join(part) or "alone"


@pytest.mark.parametrize(("preset", "tier", "beside"), list(stacks.brains()), ids=named)
def test_the_brain_keeps_the_rules_with_every_preset_and_profile(
    preset: str, tier: Tier, beside: tuple[str, ...], tmp_path: Path
) -> None:
    settings = stacks.brain(preset, tier, beside)
    config = render(stacks.BRAIN, settings, tmp_path)
    assert breaches(config, set(IMAGES.values()), stacks.LAN_IP) == []
    engines = {"llamacpp"} | ({"vllm"} if "VLLM_VARIANT" in settings else set())
    fetched = engines | ({"tei"} if beside else set())
    assert set(config["services"]) == {"gateway", "broker", *fetched}
    stopped = {n for n, s in config["services"].items() if s["deploy"].get("replicas") == 0}
    assert stopped == fetched, "Compose fetches the engines' images, and starts none"


def test_an_engine_s_image_that_is_named_is_the_one_that_is_fetched(tmp_path: Path) -> None:
    named = {"LLAMACPP_IMAGE": "own/llama:1", "VLLM_IMAGE": "own/vllm:2", "TEI_IMAGE": "own/tei:3"}
    profiles = {"COMPOSE_PROFILES": "llamacpp,vllm,embeddings"}
    config = render(stacks.BRAIN, stacks.brain("2x3060") | named | profiles, tmp_path)
    fetched = {config["services"][kind]["image"] for kind in ("llamacpp", "vllm", "tei")}
    assert fetched == set(named.values())


def test_the_gateway_alone_is_published_and_the_broker_has_no_network(tmp_path: Path) -> None:
    config = render(stacks.BRAIN, stacks.brain("2x3060"), tmp_path)
    services = config["services"]
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert list(published) == ["gateway"]
    (port,) = published["gateway"]
    assert (port["host_ip"], port["published"], port["target"]) == (stacks.LAN_IP, "8000", 8000)
    assert services["broker"]["network_mode"] == "none"
    assert set(services["gateway"]["networks"]) == {"front", "llamacpp", "tei", "vllm"}
    assert config["networks"]["llamacpp"]["internal"]


def test_the_engine_s_socket_reaches_the_broker_and_the_broker_s_the_gateway(
    tmp_path: Path,
) -> None:
    services = render(stacks.BRAIN, stacks.brain("4090+2070"), tmp_path)["services"]
    mounts = {
        (name, mount["source"])
        for name, service in services.items()
        for mount in service.get("volumes", [])
    }
    assert {name for name, source in mounts if source.endswith("docker.sock")} == {"broker"}
    assert {name for name, source in mounts if source == "broker"} == {"broker", "gateway"}


def test_gateway_and_broker_write_nothing_of_the_host(tmp_path: Path) -> None:
    services = render(stacks.BRAIN, stacks.brain("cpu"), tmp_path)["services"]
    for name, written in (("gateway", []), ("broker", ["/var/run/docker.sock"])):
        binds = [mount for mount in services[name]["volumes"] if mount["type"] == "bind"]
        assert [one["target"] for one in binds if not one.get("read_only")] == written
    environment = services["gateway"]["environment"]
    assert (environment["MODELS_DIR"], environment["MODEL_STORE"]) == ("/config", "/models")
    assert services["gateway"]["user"] == "1000:1000"


def test_the_containers_of_the_gateway_have_a_name_that_nothing_selects() -> None:
    services = yaml.safe_load(
        stacks.BRAIN.read_text("utf-8"),
    )["services"]
    assert services[ENGINES]["profiles"] == ["engines"]
    stopped = {n for n, s in services.items() if s.get("deploy", {}).get("replicas") == 0}
    assert stopped == {*IMAGES_ONLY, ENGINES}


@pytest.mark.parametrize("profiles", list(stacks.choices(PROFILES["hands"])), ids=named)
def test_the_hands_keep_the_rules_with_every_choice_of_profiles(
    profiles: tuple[str, ...], tmp_path: Path
) -> None:
    config = render(stacks.HANDS, stacks.hands(profiles), tmp_path)
    assert breaches(config, set(IMAGES.values()), stacks.LOOPBACK) == []
    assert set(config["services"]) == ALWAYS.union(*(BY_PROFILE[name] for name in profiles))


def test_the_hands_publish_where_bind_addr_says(tmp_path: Path) -> None:
    settings = {**stacks.hands(), "BIND_ADDR": stacks.LAN_IP}
    config = render(stacks.HANDS, settings, tmp_path)
    assert breaches(config, set(IMAGES.values()), stacks.LAN_IP) == []
    page = config["services"]["langfuse-web"]["environment"]
    assert page["NEXTAUTH_URL"] == f"http://{stacks.LAN_IP}:3000"
    assert page["LANGFUSE_S3_MEDIA_UPLOAD_ENDPOINT"] == f"http://{stacks.LAN_IP}:8333"


def test_what_has_no_business_with_another_shares_no_network_with_it(tmp_path: Path) -> None:
    services = render(stacks.HANDS, stacks.hands(), tmp_path)["services"]
    on = {name: set(service["networks"]) for name, service in services.items()}
    meet = {frozenset((one, other)) for one in on for other in on if on[one] & on[other]}
    assert {pair for pair in meet if len(pair) == 2} == {
        *(frozenset(("orchestrator", tool)) for tool in ("calibration", "logs", "workspace")),
        *(frozenset(("orchestrator", one)) for one in ("postgres", "qdrant", "langfuse-web")),
        *(frozenset(("langfuse-web", one)) for one in ("postgres", "clickhouse", "redis")),
        *(frozenset(("langfuse-worker", one)) for one in ("postgres", "clickhouse", "redis")),
        *(frozenset(("seaweedfs", one)) for one in ("langfuse-web", "langfuse-worker")),
        frozenset(("langfuse-web", "langfuse-worker")),
        *(frozenset(("postgres", one)) for one in ("clickhouse", "redis")),
        frozenset(("clickhouse", "redis")),
    }


def test_traces_go_to_this_stacks_langfuse_to_another_one_or_nowhere(tmp_path: Path) -> None:
    another = {"LANGFUSE_BASE_URL": "http://192.0.2.30:3000"}
    sent = {
        "own": traces(stacks.hands(("langfuse",)), tmp_path),
        "another": traces({**stacks.hands(()), **another}, tmp_path),
        "none": traces(stacks.hands(()), tmp_path),
    }
    assert sent == {
        "own": ("http://langfuse-web:3000", "http://127.0.0.1:3000"),
        "another": ("http://192.0.2.30:3000", "http://192.0.2.30:3000"),
        "none": ("", ""),
    }


def traces(settings: dict[str, str], folder: Path) -> tuple[str, str]:
    """Where the orchestrator sends them, and where people see them."""
    services = render(stacks.HANDS, settings, folder)["services"]
    environment = services["orchestrator"]["environment"]
    return environment["LANGFUSE_BASE_URL"], environment["LANGFUSE_PUBLIC_URL"]


def test_files_of_keys_and_policy_are_the_hosts(tmp_path: Path) -> None:
    settings = {**stacks.hands(()), "POLICY_FILE": "/etc/variet/policy.yaml"}
    service = render(stacks.HANDS, settings, tmp_path)["services"]["orchestrator"]
    mounts = {mount["target"]: mount for mount in service["volumes"]}
    mount = mounts[service["environment"]["POLICY_FILE"]]
    assert (mount["source"], mount["read_only"]) == ("/etc/variet/policy.yaml", True)
    assert service["environment"]["VARIET_KEYS_FILE"] == ""
    assert mounts["/run/variet/keys.yaml"]["source"] == "/dev/null"


@pytest.mark.parametrize("preset", stacks.presets())
def test_only_hosts_with_cards_reserve_them(preset: str, tmp_path: Path) -> None:
    config = render(stacks.BRAIN, stacks.brain(preset), tmp_path)
    reserved = {name: cards(config, name) for name in config["services"]}
    assert reserved.pop("broker") == ()
    # It reads the cards' memory, and computes nothing.
    assert reserved.pop("gateway") == (() if preset == "cpu" else ("gpu", "utility"))
    assert set(reserved.values()) == ({()} if preset == "cpu" else {("gpu",)})


def cards(config: Config, name: str) -> tuple[str, ...]:
    resources = config["services"][name]["deploy"]["resources"]
    devices = resources.get("reservations", {}).get("devices", [])
    return tuple(word for device in devices for word in device["capabilities"])


def test_every_image_of_the_list_is_somewhere_used() -> None:
    files = [yaml.safe_load(path.read_text("utf-8")) for path in (stacks.BRAIN, stacks.HANDS)]
    extended = {
        service["extends"]["service"]
        for file in files
        for service in file["services"].values()
        if "extends" in service
    }
    chosen = {
        variant
        for name in stacks.presets()
        for variant in load_preset(name).images.model_dump().values()
    }
    # The first two are what a driver older or newer than the preset's gets.
    known = {"llamacpp-cuda", "llamacpp-cuda13", "gateway-cpu", "gateway-nvidia"}
    assert IMAGES.keys() <= known | extended | chosen
