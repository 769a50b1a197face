"""Which engine answers, from the settings and the model manifest."""

from contracts.errors import SettingsError
from contracts.settings import Settings
from models.manifest import load_manifest
from orchestrator.agent.model import Engine

DEFAULT_CONTEXT = 8_192
TIERS = ("fast", "balanced", "deep")


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
