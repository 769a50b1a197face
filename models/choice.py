"""Which model answers: the first that is configured and here."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2

from contracts.errors import NotFound, SettingsError, Unauthorized, Unavailable, VarietError
from contracts.manifest import Manifest, ManifestEntry
from contracts.settings import Settings
from models.manifest import load_manifest
from models.store import Store

DEMO = "nano"
DEFAULT = "default"
DEFAULT_CONTEXT = 8_192
PROBE_S = 3.0
SUFFIX = ".gguf"


@dataclass(frozen=True)
class ModelChoice:
    """The model that answers. Either `path`, a GGUF for the embedded engine, or `base_url`, an
    OpenAI-compatible server. `sentence` says what it is, for people. `tools_evaluated` None: it
    is offered every tool. `context` 0: what the file says. `gateway`: that server is the brain's
    gateway, which knows the tiers by their names."""

    id: str
    sentence: str
    context: int
    path: Path | None = None
    base_url: str | None = None
    tools_evaluated: frozenset[str] | None = None
    reasoning_field: str | None = None
    demo: bool = False
    gateway: bool = False


def choose_model(
    settings: Settings,
    *,
    verify: bool = False,
    manifest: Manifest | None = None,
    store: Store | None = None,
) -> ModelChoice:
    """The first configured of: OPENAI_COMPAT_URL, a pulled model (MODEL_ID, else the first of the
    manifest that is here), the demo model. With `verify` a local file is read whole and compared.

    Raises VarietError: a configured server that does not answer is an error, unless
    LOCAL_FALLBACK=1; so is a MODEL_ID that is not here.
    """
    local = _Local(settings, manifest or load_manifest(), store or Store.of(settings), verify)
    if settings.openai_compat_url is None:
        return local.choose(settings.model_id)
    try:
        return _served(settings, settings.openai_compat_url, local.manifest)
    except VarietError as error:
        if not settings.local_fallback:
            raise
        choice = local.fallback(settings.model_id)
        return replace(choice, sentence=f"{error.message} Instead: {choice.sentence}")


def _served(settings: Settings, url: str, manifest: Manifest) -> ModelChoice:
    listed = _ask_models(settings, url)
    names = [str(model.get("id", "")) for model in listed]
    name = settings.model_id or (names[0] if len(names) == 1 else None)
    if name is None and DEFAULT in names:
        name = DEFAULT
    if name is None:
        raise SettingsError(
            "no_model_id",
            f"MODEL_ID is not set, and OPENAI_COMPAT_URL={url} serves {len(names)} models.",
            f"Set MODEL_ID to one of: {', '.join(names) or 'the models that it serves'}.",
        )
    said = next((model for model in listed if model.get("id") == name), {})
    entry = manifest.get(told_model(said) or name)
    evaluated = entry.tools_evaluated if entry else None
    told = told_context(said) if told_model(said) else None
    return ModelChoice(
        id=name,
        sentence=f"{name}, served at {url}.",
        context=settings.max_model_len
        or told
        or (entry.context if entry else None)
        or told_context(said)
        or DEFAULT_CONTEXT,
        base_url=url,
        tools_evaluated=frozenset(evaluated) if evaluated is not None else None,
        reasoning_field=entry.reasoning_field if entry else None,
        gateway=told_model(said) is not None,
    )


def _ask_models(settings: Settings, url: str) -> list[dict[str, Any]]:
    key = settings.openai_compat_key
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    try:
        answer = httpx2.get(f"{url}/models", headers=headers, timeout=PROBE_S)
    except httpx2.HTTPError as error:
        raise _unreachable(url, str(error) or type(error).__name__) from error
    if answer.status_code in (401, 403):
        raise Unauthorized(
            "engine_key",
            f"OPENAI_COMPAT_URL={url} refuses the key (status {answer.status_code}).",
            "Set OPENAI_COMPAT_KEY to a key of that server.",
        )
    try:
        listed = answer.raise_for_status().json()["data"]
    except (httpx2.HTTPStatusError, ValueError, LookupError, TypeError) as error:
        reason = f"GET /models answers {answer.status_code}, and no list of models"
        raise _unreachable(url, reason) from error
    return [model for model in listed if isinstance(model, dict)]


def told_context(model: dict[str, Any]) -> int | None:
    """The window of a model in tokens, of an item of GET /v1/models, or None if it is not said:
    vLLM tells `max_model_len`; llama.cpp tells `n_ctx` of what it started with in `meta`."""
    meta = model.get("meta")
    told = model.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else None)
    return told if isinstance(told, int) and told > 0 else None


def told_model(model: dict[str, Any]) -> str | None:
    """The id in the manifest of an item of GET /v1/models, as the brain's gateway says it of each
    of its names; None: the server is another, or does not say."""
    variet = model.get("variet")
    told = variet.get("model") if isinstance(variet, dict) else None
    return told if isinstance(told, str) else None


def told_loaded(model: dict[str, Any]) -> bool:
    """Whether an item of GET /v1/models is a model that can answer at once. Only the brain's
    gateway says that one cannot."""
    variet = model.get("variet")
    return not isinstance(variet, dict) or variet.get("state", "ready") == "ready"


def _unreachable(url: str, reason: str) -> Unavailable:
    return Unavailable(
        "engine_unreachable",
        f"OPENAI_COMPAT_URL={url} does not answer: {reason}.",
        "Start that server or correct the URL; LOCAL_FALLBACK=1 uses the local model meanwhile.",
    )


@dataclass(frozen=True)
class _Local:
    settings: Settings
    manifest: Manifest
    store: Store
    verify: bool

    def choose(self, model_id: str | None) -> ModelChoice:
        if model_id is None:
            return self._of(self._first_present())
        if model_id.endswith(SUFFIX):
            return self._of_file(Path(model_id))
        entry = self.manifest.get(model_id)
        if entry is None or entry.kind != "chat":
            raise SettingsError(
                "unknown_model",
                f"MODEL_ID={model_id} is no chat model of the manifest.",
                f"Set it to one of: {', '.join(e.id for e in self._runnable())}; or to the path of"
                " a .gguf file.",
            )
        if entry not in self._runnable():
            raise SettingsError(
                "wrong_engine",
                f"MODEL_ID={model_id} needs the engine {entry.engine}, which runs on the brain.",
                "Serve it there and set OPENAI_COMPAT_URL, or choose another model.",
            )
        if not self.store.has(entry):
            raise NotFound(
                "not_pulled",
                f"MODEL_ID={model_id} is not in MODEL_STORE={self.store.root}.",
                f"Fetch it: variet models pull {model_id}",
            )
        return self._of(entry)

    def fallback(self, model_id: str | None) -> ModelChoice:
        """MODEL_ID names a model of the server that is away; it counts only if it is here too."""
        entry = self.manifest.get(model_id) if model_id else None
        here = entry is not None and entry in self._runnable() and self.store.has(entry)
        return self.choose(model_id if here else None)

    def _runnable(self) -> list[ManifestEntry]:
        return [e for e in self.manifest.models if e.kind == "chat" and e.engine == "llama.cpp"]

    def _first_present(self) -> ManifestEntry:
        demo = self.manifest.get(DEMO)
        for entry in self._runnable():
            if entry is not demo and self.store.has(entry):
                return entry
        if demo is None or not self.store.has(demo):
            raise NotFound(
                "no_model",
                f"No model is in MODEL_STORE={self.store.root}, and the demo model is missing.",
                "Fetch one: variet models pull",
            )
        return demo

    def _of(self, entry: ManifestEntry) -> ModelChoice:
        if self.verify:
            self.store.verify(entry)
        demo = entry.id == DEMO
        path = self.store.path(entry)
        sentence = f"{entry.id} ({entry.licence}), run here by {entry.engine}: {entry.about}"
        if demo:
            sentence += " For a real model: variet models pull"
        evaluated = entry.tools_evaluated
        return ModelChoice(
            id=entry.id,
            sentence=sentence,
            context=self._context(entry),
            path=path,
            tools_evaluated=frozenset(evaluated) if evaluated is not None else None,
            reasoning_field=entry.reasoning_field,
            demo=demo,
        )

    def _of_file(self, path: Path) -> ModelChoice:
        if not path.is_file():
            raise NotFound(
                "model_missing", f"MODEL_ID={path}: there is no such file.", "Correct MODEL_ID."
            )
        return ModelChoice(
            id=path.stem,
            sentence=f"{path.stem}, run here by llama.cpp from {path}.",
            context=self.settings.max_model_len or DEFAULT_CONTEXT,
            path=path,
            reasoning_field="reasoning_content",
        )

    def _context(self, entry: ManifestEntry) -> int:
        wanted = self.settings.max_model_len
        if wanted is not None and wanted > entry.context_limit:
            raise SettingsError(
                "context_too_long",
                f"MAX_MODEL_LEN={wanted} is more than {entry.id} can take, {entry.context_limit}.",
                f"Set it to at most {entry.context_limit}, or leave it out ({entry.context}).",
            )
        return wanted or entry.context
