"""The brain: Docker, cards, models, the gateway and who may use it. Nothing here loads a model."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from cli.address import local_url
from cli.compose import ENGINES, Compose, profiles
from cli.doctor.check import Check
from cli.doctor.docker import check_containers, check_docker, containers
from cli.doctor.finding import Finding, failure, ok, warning
from cli.doctor.gateway import check_admin_key, check_gateway, check_open_routes
from cli.doctor.gpu import card_images, check_cards, check_memory, visible
from cli.doctor.images import check_images, engine_images
from cli.doctor.network import (
    Port,
    check_exposure,
    check_firewall,
    check_lan_address,
    check_ports,
)
from cli.doctor.secrets import check_file, check_secrets, current_user
from cli.host.addresses import addresses
from cli.host.command import Runner
from cli.host.facts import disk_free, ram_mib
from cli.host.gpus import Gpus, gpus
from cli.text import size
from contracts.deployment import Deployment
from contracts.gateway_settings import GatewaySettings
from contracts.manifest import Manifest, ManifestEntry
from contracts.preset import HostPreset
from contracts.settings import Settings
from contracts.settings_reading import env_file
from models.budget import TierBudget, budget
from models.manifest import load_manifest, load_preset
from models.store import Store

HUB_LOW_BYTES = 20_000_000_000


def checks(
    here: Deployment,
    settings: Settings,
    gateway: GatewaySettings,
    run: Runner,
    uid: int | None = None,
) -> list[Check]:
    """What there is to see on the brain. `uid`: who looks; default: the present user."""
    user = current_user() if uid is None else uid
    brain = _Brain(here, settings, gateway, run)
    docker = Check("docker", lambda: check_docker(run, bool(brain.on_cards)))
    stack = Check("containers", lambda: check_containers(Compose()))
    in_docker = [
        Check("ports", brain.ports_free),
        Check("images", lambda: [check_images(run, engine_images(brain.selected))]),
        stack,
    ]
    return [
        Check("settings file", lambda: [check_file(env_file(), user)]),
        Check("secrets", lambda: [check_secrets(here, settings, gateway)]),
        *([docker] if brain.docker else []),
        Check("gpu", lambda: check_cards(gpus(run), brain.on_cards)),
        Check("models", brain.models),
        Check("lan address", lambda: [check_lan_address(here.lan_ip, addresses(run))]),
        *(in_docker if brain.docker else []),
        Check("gateway", brain.gateway),
        Check("exposure", brain.exposure),
        Check("firewall", lambda: [brain.firewall(user)]),
    ]


class _Brain:
    def __init__(
        self, here: Deployment, settings: Settings, gateway: GatewaySettings, run: Runner
    ) -> None:
        self._here = here
        self._settings = settings
        self._gateway = gateway
        self._run = run
        self.selected = profiles(here)
        self.on_cards = card_images(here, self.selected)
        # Without a stack the gateway runs beside Docker, as on a Mac.
        self.docker = here.compose_file is not None

    @property
    def _ports(self) -> list[Port]:
        return [Port("GATEWAY_PORT", self._gateway.gateway_port, ("gateway",))]

    @cached_property
    def _manifest(self) -> Manifest:
        return load_manifest(self._gateway.models_dir / "manifest.yaml")

    def _preset(self, name: str) -> HostPreset:
        return load_preset(name, self._gateway.models_dir / "hosts", self._manifest)

    def models(self) -> Iterator[Finding]:
        """Memory and disk against what each tier needs."""
        if self._here.variet_preset is None:
            yield failure("preset", "VARIET_PRESET is not set.", "Run: variet init")
            return
        preset = self._preset(self._here.variet_preset)
        yield check_main_memory(ram_mib(self._run), preset.ram_mib)
        tiers = [budget(preset, tier, self._manifest) for tier in preset.tiers]
        if self.on_cards and (known := gpus(self._run)).cards:
            loaded = any(one.service == ENGINES and one.state == "running" for one in containers())
            yield from (self._memory(tier, known, loaded) for tier in tiers)
        yield from check_tiers(tiers, beside(preset, self._manifest), self._chosen, self._store)
        if self.selected & {"vllm", "embeddings", "rerank"}:
            yield check_hub(self._here.hf_home)

    @property
    def _chosen(self) -> str:
        return self._here.engine_tier

    @property
    def _store(self) -> Store:
        return Store.of(self._settings)

    def _memory(self, tier: TierBudget, known: Gpus, loaded: bool) -> Finding:
        given = self._here.nvidia_visible_devices_llm
        found = check_memory(known, given, self._needs(tier, known), tier.entry.id, loaded)
        return replace(found, name=f"gpu memory, {tier.tier}")

    def _needs(self, tier: TierBudget, known: Gpus) -> list[int]:
        """MiB of each card that the engine is given. vLLM takes its share whatever the model."""
        if tier.entry.engine == "vllm":
            cards, _ = visible(known, self._here.nvidia_visible_devices_llm)
            return [int(card.total_mib * self._here.gpu_mem_util) for card in cards]
        return [card.weights + card.kv + card.buffers for card in tier.cards if card.weights]

    def ports_free(self) -> Iterator[Finding]:
        yield from check_ports(self._here.lan_ip or "127.0.0.1", self._ports, containers())

    def gateway(self) -> Iterator[Finding]:
        """Whether it answers who has a key, and nobody else; and the admin's routes the admin."""
        base = local_url(self._here.lan_ip or "127.0.0.1", self._gateway.gateway_port)
        secret, admin = self._gateway.gateway_api_key, self._gateway.gateway_admin_key
        key = secret.get_secret_value() if secret else ""
        found = list(check_gateway(base, key, "make up" if self.docker else "make gateway"))
        yield from found
        if found[0].status == "ok":
            yield check_admin_key(base, key, admin.get_secret_value() if admin else "")
            yield check_open_routes(base)

    def exposure(self) -> Iterator[Finding]:
        if self._here.lan_ip:
            yield check_exposure(self._here.lan_ip, self._ports, addresses(self._run))

    def firewall(self, uid: int) -> Finding:
        """The rules of ours hang in Docker's chains."""
        if self.docker:
            return check_firewall(self._run, "brain", "", uid)
        admitted = self._here.hands_ip or "the workstation"
        return warning(
            "firewall",
            "The gateway runs outside Docker, where the rules of Variet do not reach.",
            f"Let this system's own firewall admit {admitted} alone.",
        )


def check_main_memory(has: int, needs: int) -> Finding:
    if has and has < needs:
        return warning(
            "memory",
            f"This host has {has} MiB, and the preset needs {needs}.",
            "Choose a smaller preset, or add memory: variet init",
        )
    return ok("memory", f"{has} MiB; the preset needs {needs}")


def beside(preset: HostPreset, manifest: Manifest) -> list[ManifestEntry]:
    """What a preset serves besides its tiers."""
    rerank = preset.rerank if "rerank" in preset.profiles else None
    found = [manifest.get(name) for name in (preset.embed, rerank, preset.classify) if name]
    return [one for one in found if one is not None]


def check_tiers(
    tiers: list[TierBudget], beside: list[ManifestEntry], chosen: str, store: Store
) -> Iterator[Finding]:
    """Whether the files of each tier's model are here. A failure where it is the tier that is
    loaded at the start, else a warning: others serve."""
    for tier in tiers:
        if tier.entry.source.is_web:
            found = replace(check_files([tier.entry], store), name=f"model, {tier.tier}")
            yield found if found.status == "ok" or tier.tier == chosen else _less(found)
    if others := [one for one in beside if one.source.is_web]:
        found = replace(check_files(others, store), name="models beside")
        yield found if found.status == "ok" else _less(found)


def _less(found: Finding) -> Finding:
    return replace(found, status="warning")


def check_files(models: list[ManifestEntry], store: Store) -> Finding:
    """Whether each model's file is here, else whether there is room for it."""
    missing = [one for one in models if not store.has(one)]
    if not missing:
        return ok("models", f"{', '.join(one.id for one in models) or 'none'} in {store.root}")
    needed = sum(one.source.bytes or 0 for one in missing)
    free = disk_free(store.root)
    names = ", ".join(one.id for one in missing)
    pull = "; ".join(f"variet models pull {one.id}" for one in missing)
    detail = f"{names} not in {store.root}: {size(needed)} to fetch, {size(free)} free."
    room = "" if needed < free else "Free some disk space, or set MODEL_STORE to another disk; "
    return failure("models", detail, f"{room}{pull}")


def check_hub(folder: Path) -> Finding:
    """Room for what an engine fetches by itself."""
    free = disk_free(folder)
    detail = f"{folder}, {size(free)} free"
    if free < HUB_LOW_BYTES:
        return warning("hub", f"{detail}.", "Models of the hub need tens of gigabytes: free some.")
    return ok("hub", detail)
