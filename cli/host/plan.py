"""What stands in `.env`: a pure function of a few answers, the presets and what stands there.

`plan(Answers(...), existing)` gives sections of names and values. Secrets that stand there stay;
those that are missing are made. A line that a person changed by hand stays, unless an answer that
it depends on changes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from cli.host import secret
from cli.host.answers import (
    BRAIN_PORT,
    COMPOSE_FILES,
    ENGINES,
    FORMER_EMBED_PORT,
    PROFILES,
    Answers,
    base_url,
    check_profiles,
    langfuse_url,
)
from cli.host.dotenv import Section
from contracts.errors import SettingsError
from contracts.manifest import Manifest, Tier
from contracts.preset import HostPreset
from models.manifest import load_manifest, load_preset

LANGFUSE, EMBED_KEY, EMBED_URL = "LANGFUSE_BASE_URL", "EMBED_KEY", "EMBED_URL"
PRESET = "a model is served as its preset says: docs/hosts.md tells how to make one of your own"
# Lines of a brain from before it had a gateway, with what became of each.
FORMER = {
    **dict.fromkeys(
        (
            *("LLAMACPP_MODEL", "VLLM_MODEL", "MODEL_ID", "MAX_MODEL_LEN", "ENGINE_FLAGS"),
            *("TEI_MODEL", "TEI_REVISION", "RERANK_MODEL", "RERANK_REVISION"),
        ),
        PRESET,
    ),
    **dict.fromkeys(
        ("EMBED_PORT", "RERANK_PORT"), "embeddings and reranking are at GATEWAY_PORT, too"
    ),
    "EMBED_MEMORY": "ENGINE_MEMORY is the limit of each engine",
}


def plan(
    answers: Answers,
    existing: Mapping[str, str] | None = None,
    *,
    before: Answers | None = None,
    maker: secret.Maker = secret.token,
    manifest: Manifest | None = None,
) -> tuple[Section, ...]:
    """The sections to write. `before` is what `existing` was written with (`answers_of`); without
    it, every derived line is written anew. Raises SettingsError for answers that do not fit."""
    here = existing or {}
    known = manifest or load_manifest()
    wanted = _derived(answers, known)
    former = _derived(before, known) if before and before.role == answers.role else ()
    old = {name: value for section in former for name, value in section.values.items()}
    kept = tuple(_keep(section, here, old) for section in wanted)
    return (*kept, *_secrets(answers, here, maker), *_former(answers, here))


def values(sections: tuple[Section, ...]) -> dict[str, str]:
    """The same as one mapping, for whoever needs no file."""
    return {n: v for section in sections for n, v in section.values.items() if v is not None}


def engine_profile(preset: HostPreset, tier: Tier, manifest: Manifest) -> str:
    entry = manifest.get(preset.tiers[tier].model)
    assert entry is not None, "load_preset has checked it"
    return ENGINES[entry.engine]


def _derived(answers: Answers, manifest: Manifest) -> tuple[Section, ...]:
    if answers.profiles is not None:
        check_profiles(answers.role, answers.profiles)
    if answers.role == "hands":
        return tuple(_hands(answers, manifest))
    return tuple(_brain(answers, manifest))


def _brain(answers: Answers, manifest: Manifest) -> Iterator[Section]:
    name = _said(answers.preset, "--preset")
    preset = load_preset(name, manifest=manifest)
    engines = dict.fromkeys(engine_profile(preset, tier, manifest) for tier in preset.tiers)
    beside = preset.profiles if answers.profiles is None else answers.profiles
    beside = tuple(one for one in beside if one not in ENGINES.values())
    compose = None if preset.native else COMPOSE_FILES["brain"]
    yield Section(
        "This host",
        {
            "VARIET_ROLE": "brain",
            "VARIET_PRESET": name,
            "COMPOSE_FILE": compose,
            "COMPOSE_PROFILES": None if preset.native else ",".join((*engines, *beside)),
            "LAN_IP": _said(answers.lan_ip, "--lan-ip"),
            "HANDS_IP": answers.hands_ip,
            "VARIET_UID": str(answers.uid),
            "VARIET_GID": str(answers.gid),
        },
    )
    yield Section("The gateway", _gateway(answers, preset))
    if not preset.native:
        yield Section("Its engines", _engines(answers, preset))


def _gateway(answers: Answers, preset: HostPreset) -> dict[str, str | None]:
    common = {
        "ENGINE_TIER": answers.tier,
        "MODEL_STORE": _text(answers.model_store),
        "HF_HOME": _text(answers.hf_home),
    }
    if preset.native:
        return {**common, "ENGINE_BACKEND": "process", "GATEWAY_HOST": answers.lan_ip}
    return {**common, "GATEWAY_CARDS": "gateway-nvidia" if preset.cards else None}


def _engines(answers: Answers, preset: HostPreset) -> dict[str, str | None]:
    card = () if preset.emb_card is None else (preset.emb_card,)
    return {
        "ENGINE_MEMORY": f"{preset.engine_memory_mib}m",
        "ENGINE_CPUS": None if answers.cpus is None else str(answers.cpus),
        "LLAMACPP_VARIANT": answers.llamacpp or preset.images.llamacpp,
        "VLLM_VARIANT": preset.images.vllm,
        "TEI_VARIANT": answers.tei or preset.images.tei,
        "GPU_MEM_UTIL": f"{preset.gpu_mem_util:g}" if preset.images.vllm else None,
        "NVIDIA_VISIBLE_DEVICES_LLM": _cards(answers, preset.llm_cards),
        "NVIDIA_VISIBLE_DEVICES_EMB": _cards(answers, card),
    }


def _hands(answers: Answers, manifest: Manifest) -> Iterator[Section]:
    profiles = PROFILES["hands"] if answers.profiles is None else answers.profiles
    yield Section(
        "This host",
        {
            "VARIET_ROLE": "hands",
            "COMPOSE_FILE": COMPOSE_FILES["hands"],
            "COMPOSE_PROFILES": ",".join(profiles),
            "LAN_IP": answers.lan_ip,
            "VARIET_UID": str(answers.uid),
            "VARIET_GID": str(answers.gid),
            "WORKSPACE_DIR": _text(answers.workspace),
        },
    )
    yield Section("The brain", _link(answers, manifest))
    langfuse = "langfuse" in profiles
    yield Section(
        "Index and traces",
        {
            "QDRANT_URL": "http://qdrant:6333" if "qdrant" in profiles else None,
            LANGFUSE: langfuse_url(answers) if langfuse else None,
            "LANGFUSE_INTERNAL_URL": "http://langfuse-web:3000" if langfuse else None,
        },
    )


def _link(answers: Answers, manifest: Manifest) -> dict[str, str | None]:
    if answers.brain_url is None:
        _said(answers.brain_ip, "--brain-ip")
    key = _said(answers.brain_key, "--brain-key")
    # Without the brain's preset its embedding model is not known: the workstation embeds by itself.
    model = load_preset(answers.preset, manifest=manifest).embed if answers.preset else None
    brain_url = answers.brain_url or base_url(answers.brain_ip, BRAIN_PORT)
    if answers.embed_url and model is None:
        _said(answers.preset, "--preset")
    return {
        "BRAIN_IP": answers.brain_ip,
        "VARIET_PRESET": answers.preset,
        "OPENAI_COMPAT_URL": brain_url,
        "OPENAI_COMPAT_KEY": key,
        # The name that every brain answers to, whatever its tier.
        "MODEL_ID": "default",
        EMBED_URL: (answers.embed_url or brain_url) if model else None,
        EMBED_KEY: key if model else None,
        "EMBED_MODEL": model,
    }


def _keep(section: Section, here: Mapping[str, str], old: Mapping[str, str | None]) -> Section:
    """The section, with what a person wrote where no answer behind it changed, and with what
    nothing is to be written for. The answer behind Langfuse's address is what the line itself
    says, a key that was emptied is to be copied anew, and the brain embeds at its one port."""
    former = base_url(here.get("BRAIN_IP"), FORMER_EMBED_PORT)

    def kept(name: str, value: str | None) -> str | None:
        if value is not None and (name == LANGFUSE or (name == EMBED_KEY and not here.get(name))):
            return value
        if name == EMBED_URL and here.get(name) == former:
            return value
        same = old[name] == value if name in old else value is None
        return here[name] if name in here and same else value

    return replace(section, values={n: kept(n, v) for n, v in section.values.items()})


def _secrets(answers: Answers, here: Mapping[str, str], maker: secret.Maker) -> Iterator[Section]:
    if answers.role == "brain":
        yield _made("Keys", secret.BRAIN, here, maker)
        return
    yield _made("Secrets of the workstation's stack", secret.HANDS, here, maker)
    names = (secret.LANGFUSE_PUBLIC, *secret.LANGFUSE)
    yield _made("Keys and passwords of Langfuse", names, here, maker)


def _former(answers: Answers, here: Mapping[str, str]) -> Iterator[Section]:
    if answers.role == "brain" and (gone := [name for name in FORMER if name in here]):
        yield Section("What went", dict.fromkeys(gone))


def _made(
    title: str, names: tuple[str, ...], here: Mapping[str, str], maker: secret.Maker
) -> Section:
    return Section(title, {name: here.get(name) or secret.make(name, maker) for name in names})


def _said(value: str | None, flag: str) -> str:
    if value is None:
        raise SettingsError("no_answer", f"{flag} is not given.", f"Give it: {flag} ...")
    return value


def _cards(answers: Answers, wanted: tuple[int, ...]) -> str | None:
    cards = answers.cards
    return ",".join(str(cards[one] if cards else one) for one in wanted) or None


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
