"""Reads what the gateway is to serve from settings, manifest and preset: at its start and anew."""

from collections.abc import Callable
from dataclasses import dataclass

from contracts.deployment import Deployment, load_deployment
from contracts.errors import SettingsError
from contracts.gateway_settings import GatewaySettings, load_gateway_settings
from contracts.manifest import Manifest
from contracts.preset import HostPreset
from models.manifest import load_manifest, load_preset
from services.gateway.catalogue import Catalogue, EngineSpec, catalogue
from services.gateway.configuration import Configuration
from services.gateway.scheduling.types import Demand, Limits, Target

# What engines and devices were opened with; a reload cannot change it under them.
FIXED = ("cards", "llm_cards", "emb_card", "images", "native", "engine_memory_mib", "gpu_mem_util")


@dataclass(frozen=True)
class Read:
    """The files and settings as they were read together."""

    settings: GatewaySettings
    deployment: Deployment
    manifest: Manifest
    preset: HostPreset
    catalogue: Catalogue


def read_all() -> Read:
    """Raises SettingsError that names file, key and value."""
    settings, deployment = load_gateway_settings(), load_deployment()
    # Cached for programs that read it once; here the file may have changed.
    load_manifest.cache_clear()
    manifest = load_manifest(settings.models_dir / "manifest.yaml")
    hosts = settings.models_dir / "hosts"
    if deployment.variet_preset is None:
        raise SettingsError(
            "no_preset",
            "VARIET_PRESET is not set: what this brain serves is not known.",
            f"Set it to the name of a file in {hosts}, or run: variet init --role brain",
        )
    preset = load_preset(deployment.variet_preset, hosts, manifest)
    known = catalogue(preset, manifest, deployment.engine_tier)
    return Read(settings, deployment, manifest, preset, known)


def read_again(first: Read) -> Read:
    """For a gateway that was started with `first`. Raises SettingsError, also for what only a new
    start can change."""
    new = read_all()
    for key in FIXED:
        if getattr(new.preset, key) != getattr(first.preset, key):
            raise SettingsError(
                "needs_restart",
                f"{new.deployment.variet_preset}.yaml: {key} has changed, which running engines"
                " cannot follow.",
                "Restart the gateway; loaded models stay.",
            )
    return new


def limits(settings: GatewaySettings) -> Limits:
    return Limits(
        queue=settings.gateway_queue,
        queue_timeout_s=settings.gateway_queue_timeout_s,
        max_wait_s=settings.gateway_max_wait_s,
    )


def configuration(
    read: Read,
    budget: Demand,
    demand: Callable[[EngineSpec], Demand],
    asleep: Callable[[EngineSpec], Demand | None],
) -> Configuration:
    """`demand` is what an engine takes while it runs, `asleep` while it sleeps; None: it cannot."""
    settings = read.settings
    targets = tuple(
        Target(
            name=spec.name,
            demand=demand(spec),
            concurrency=spec.concurrency,
            asleep=asleep(spec),
            pinned=spec.pinned,
            preload=spec.preload,
            ttl_s=settings.gateway_idle_s if spec.ttl_s is None else spec.ttl_s,
            min_warm_s=(
                settings.gateway_min_warm_s if spec.min_warm_s is None else spec.min_warm_s
            ),
            fingerprint=spec.fingerprint,
        )
        for spec in read.catalogue.engines.values()
    )
    return Configuration(read.catalogue, targets, budget, limits(settings))
