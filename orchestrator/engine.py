"""Which engine answers, from the settings, the model manifest and what its server tells."""

import asyncio
from dataclasses import replace

import httpx2

from contracts.errors import SettingsError
from contracts.manifest import Manifest
from contracts.settings import Settings
from models.choice import told_context, told_loaded, told_model
from models.manifest import load_manifest
from orchestrator.agent.model import Engine

DEFAULT_CONTEXT = 8_192
TIERS = ("fast", "balanced", "deep")
ASK_S = 3.0


def engine_of(settings: Settings) -> Engine:
    """With MODEL_ID every tier is that one model; without it the server knows the tiers itself.
    Raises SettingsError without OPENAI_COMPAT_URL; `variet run` sets it to its own engine."""
    if settings.openai_compat_url is None:
        raise SettingsError(
            "no_engine",
            "OPENAI_COMPAT_URL is not set: the orchestrator has no model to ask.",
            "Set it, or start everything with `make run`, which brings an engine along.",
        )
    key = settings.openai_compat_key
    model = settings.model_id or "default"
    entry = load_manifest().get(model)
    evaluated = entry.tools_evaluated if entry else None
    return Engine(
        url=settings.openai_compat_url,
        key=key.get_secret_value() if key else "",
        model=model,
        context=settings.max_model_len or (entry.context if entry else DEFAULT_CONTEXT),
        tiers={tier: settings.model_id or tier for tier in TIERS},
        tools_evaluated=frozenset(evaluated) if evaluated is not None else None,
    )


async def as_served(engine: Engine, settings: Settings, http: httpx2.AsyncClient) -> Engine | None:
    """`engine`, which is what the settings say, with what its server tells of the model that it
    serves now, which may be another than yesterday's: its window and, through the manifest, the
    tools that it may be offered. What the settings say of either counts more. None when the server
    does not answer, or lists nothing."""
    manifest = load_manifest()
    if manifest.get(engine.model):
        return engine
    headers = {"authorization": f"Bearer {engine.key}"} if engine.key else {}
    try:
        async with asyncio.timeout(ASK_S):
            answer = await http.get(f"{engine.url}/models", headers=headers)
        listed = answer.raise_for_status().json()["data"]
        names = {str(model["id"]): model for model in listed}
    except (TimeoutError, httpx2.HTTPError, ValueError, LookupError, TypeError):
        return None
    return _with(engine, settings, manifest, names) if names else None


def _with(
    engine: Engine, settings: Settings, manifest: Manifest, names: dict[str, dict[str, object]]
) -> Engine:
    """`names`: what is served, by name. A server of one model may list it under several; the
    gateway lists many, and says of each name which model it is."""
    said = names.get(engine.model) or {}
    entry = manifest.get(told_model(said) or "")
    if entry is None:
        known = [entry for name in names if (entry := manifest.get(name))]
        entry = known[0] if len(known) == 1 else None
        said = names.get(entry.id) or {} if entry else said
    context = settings.max_model_len or told_context(said) or (entry.context if entry else None)
    evaluated = entry.tools_evaluated if entry else engine.tools_evaluated
    return replace(
        engine,
        context=context or engine.context,
        tools_evaluated=None if evaluated is None else frozenset(evaluated),
        loaded=told_loaded(said),
    )
