"""The brain: Docker, cards, models, the published engines and who may use them."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from cli.address import local_url
from cli.compose import Compose, profiles
from cli.doctor.check import Check
from cli.doctor.docker import check_containers, check_docker, containers
from cli.doctor.finding import Finding, failure, ok, warning
from cli.doctor.gpu import card_images, check_cards, check_memory, visible
from cli.doctor.network import (
    Port,
    check_exposure,
    check_firewall,
    check_lan_address,
    check_ports,
)
from cli.doctor.probe import Answer, ask
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

ENGINES = ("llamacpp", "vllm")
WRONG_KEY = "wrong" * 8
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
    return [
        Check("settings file", lambda: [check_file(env_file(), user)]),
        Check("secrets", lambda: [check_secrets(here, settings, gateway)]),
        *([docker] if brain.docker else []),
        Check("gpu", lambda: check_cards(gpus(run), brain.on_cards)),
        Check("models", brain.models),
        Check("lan address", lambda: [check_lan_address(here.lan_ip, addresses(run))]),
        *([Check("ports", brain.ports_free), stack] if brain.docker else []),
        *(Check(name, look) for name, look in brain.engines()),
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
        # Without a profile the engines run beside Docker, as on a Mac.
        self.docker = bool(self.selected)

    @property
    def _ports(self) -> list[Port]:
        here = self._here
        return [
            Port("GATEWAY_PORT", self._gateway.gateway_port, ENGINES),
            *self._if("embeddings", Port("EMBED_PORT", here.embed_port, ("embeddings",))),
            *self._if("rerank", Port("RERANK_PORT", here.rerank_port, ("rerank",))),
        ]

    def _if(self, profile: str, port: Port) -> list[Port]:
        return [port] if profile in self.selected else []

    def models(self) -> Iterator[Finding]:
        """Memory and disk against what the selected tier needs."""
        if self._here.variet_preset is None:
            yield failure("preset", "VARIET_PRESET is not set.", "Run: variet init")
            return
        manifest = load_manifest()
        preset = load_preset(self._here.variet_preset)
        tier = budget(preset, self._here.engine_tier, manifest)
        yield check_main_memory(ram_mib(self._run), preset.ram_mib)
        if self.on_cards and (known := gpus(self._run)).cards:
            given = self._here.nvidia_visible_devices_llm
            running = any(one.service in ENGINES and one.well for one in containers())
            yield check_memory(known, given, self._needs(tier, known), tier.entry.id, running)
        if "vllm" not in self.selected:
            yield self._files(wanted(preset, manifest, tier.entry), tier.entry)
        if "vllm" in self.selected or self.selected & {"embeddings", "rerank"}:
            yield check_hub(self._here.hf_home)

    def _files(self, models: list[ManifestEntry], served: ManifestEntry) -> Finding:
        """LLAMACPP_MODEL may name another file than the tier's."""
        store, chosen = Store.of(self._settings), self._here.llamacpp_model
        if chosen is None or store.root / chosen == store.path(served):
            return check_files(models, store)
        if (store.root / chosen).is_file():
            return ok("models", f"LLAMACPP_MODEL={chosen} in {store.root}, not the tier's own")
        return failure(
            "models",
            f"LLAMACPP_MODEL={chosen} is not in {store.root}.",
            f"Correct it, or serve the tier's own: variet init; variet models pull {served.id}",
        )

    def _needs(self, tier: TierBudget, known: Gpus) -> list[int]:
        """MiB of each card that the engine is given. vLLM takes its share whatever the model."""
        if "vllm" in self.selected:
            cards, _ = visible(known, self._here.nvidia_visible_devices_llm)
            return [int(card.total_mib * self._here.gpu_mem_util) for card in cards]
        return [card.weights + card.kv + card.buffers for card in tier.cards if card.weights]

    def ports_free(self) -> Iterator[Finding]:
        yield from check_ports(self._here.lan_ip or "127.0.0.1", self._ports, containers())

    def engines(self) -> Iterator[tuple[str, Callable[[], Iterable[Finding]]]]:
        """Each published server: whether it answers who has the key, and nobody else."""
        here = self._here
        base = local_url(here.lan_ip or "127.0.0.1", 0).rpartition(":")[0]
        secret = self._gateway.gateway_api_key
        key = secret.get_secret_value() if secret else ""
        embed = {"model": here.tei_model or "", "input": ["doctor"]}
        rerank = {"query": "doctor", "texts": ["doctor"]}
        asked: list[tuple[str, bool, str, dict[str, Any] | None]] = [
            (
                "engine",
                not self.docker or bool(self.selected.intersection(ENGINES)),
                f"{base}:{self._gateway.gateway_port}/v1/models",
                None,
            ),
            (
                "embeddings",
                "embeddings" in self.selected,
                f"{base}:{here.embed_port}/v1/embeddings",
                embed,
            ),
            (
                "rerank",
                "rerank" in self.selected,
                f"{base}:{here.rerank_port}/rerank",
                rerank,
            ),
        ]
        for name, on, url, body in asked:
            if on:
                start = "make up" if self.docker else "the command line that variet init prints"
                yield name, partial(check_engine, name, url, key, body, f"Start it: {start}")
        if "vllm" in self.selected:
            yield "open routes", partial(check_open_routes, f"{base}:{self._gateway.gateway_port}")

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
            "The engines run outside Docker, where the rules of Variet do not reach.",
            f"Let this system's own firewall admit {admitted} alone.",
        )


def check_engine(
    name: str, url: str, key: str, body: dict[str, Any] | None, start: str = "Start it: make up"
) -> Iterator[Finding]:
    """Whether it answers with the key, refuses without, and refuses a wrong one."""
    logs = "Look at: make ps, make logs"
    answer = ask(url, key, body)
    if not isinstance(answer, Answer):
        down = answer.reason == "refused"
        yield failure(name, answer.detail, start if down else logs)
        return
    if answer.refused:
        yield failure(
            name,
            f"{url} refuses GATEWAY_API_KEY ({answer.status}).",
            "It was started with another one: make up",
        )
        return
    if answer.status != 200:
        yield failure(name, f"{url} answered {answer.status}.", logs)
        return
    yield ok(name, f"{url} answers")
    for kind, wrong in (("without a key", None), ("with a wrong key", WRONG_KEY)):
        other = ask(url, wrong, body)
        if isinstance(other, Answer) and not other.refused:
            yield failure(
                f"{name} key",
                f"{url} answered {other.status} {kind}: anyone on the network can use it.",
                "Set GATEWAY_API_KEY (variet init), then: make up",
            )
            return
    yield ok(f"{name} key", "without the key, or with a wrong one, it refuses")


def check_open_routes(base: str) -> Iterator[Finding]:
    """vLLM asks for its key below /v1 only (its docs/usage/security.md). `/version` stands for the
    others, as it does nothing."""
    answer = ask(f"{base}/version")
    if isinstance(answer, Answer) and answer.status == 200:
        yield warning(
            "open routes",
            f"{base} infers (/invocations) and is paused (/pause) without a key by whoever"
            " reaches it.",
            "Let the firewall admit the workstation alone; docs/security.md says more.",
        )


def check_main_memory(has: int, needs: int) -> Finding:
    if has and has < needs:
        return warning(
            "memory",
            f"This host has {has} MiB, and the preset needs {needs}.",
            "Choose a smaller preset, or add memory: variet init",
        )
    return ok("memory", f"{has} MiB; the preset needs {needs}")


def wanted(preset: HostPreset, manifest: Manifest, served: ManifestEntry) -> list[ManifestEntry]:
    """The models of a preset that are files here: what is served, and what works beside it."""
    beside = [manifest.get(name) for name in (preset.embed, preset.rerank) if name]
    return [one for one in (served, *beside) if one is not None and one.source.is_web]


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
