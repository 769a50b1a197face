"""What a person answers to `variet init`, and how a file of settings tells it again."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from contracts.deployment import Role
from contracts.errors import SettingsError
from contracts.manifest import Tier
from contracts.preset import TIERS
from contracts.settings import LOOPBACK, REPOSITORY

COMPOSE_FILES: dict[Role, str] = {
    "brain": "docker-compose.gpu.yml",
    "hands": "docker-compose.workstation.yml",
}
ENGINES = {"llama.cpp": "llamacpp", "vllm": "vllm"}
PROFILES: dict[Role, tuple[str, ...]] = {
    "brain": ("llamacpp", "vllm", "embeddings", "rerank"),
    "hands": ("qdrant", "langfuse", "searxng"),
}
DEFAULT_TIER: Tier = "balanced"
BRAIN_PORT, LANGFUSE_PORT = 8000, 3000
# Where the brain embedded before it had a gateway.
FORMER_EMBED_PORT = 8081
EVERYWHERE = ("0.0.0.0", "::")


@dataclass(frozen=True)
class Answers:
    """What a person says, or is proposed to them. Folders are absolute. None: not said.

    `profiles`: on the brain whose images are fetched beside those of the tiers; on the hands all.
    `preset` on the hands is the brain's. An address is an answer only where it is another than the
    one that follows from the others. The last ones are facts of this host: `llamacpp`, `tei`,
    variants of the images that fit it (None: the preset's), and `cards`, which of its cards plays
    each card of the preset (None: in the same order)."""

    role: Role
    preset: str | None = None
    tier: Tier = DEFAULT_TIER
    lan_ip: str | None = None
    brain_ip: str | None = None
    hands_ip: str | None = None
    brain_url: str | None = None
    embed_url: str | None = None
    brain_key: str | None = None
    profiles: tuple[str, ...] | None = None
    workspace: Path | None = None
    langfuse_url: str | None = None
    model_store: Path | None = None
    hf_home: Path | None = None
    llamacpp: str | None = None
    tei: str | None = None
    cards: tuple[int, ...] | None = None
    cpus: int | None = None
    bind_addr: str | None = None
    langfuse_port: int | None = None
    uid: int = 1000
    gid: int = 1000


def answers_of(existing: Mapping[str, str], role: Role | None = None) -> Answers | None:
    """The answers that a file was written with; None: `variet init` has not written it. With
    `role`, what a file that a person wrote says of that role."""
    named = next((one for one in COMPOSE_FILES if one == existing.get("VARIET_ROLE")), role)
    if named is None:
        return None
    given = [name for name in existing.get("COMPOSE_PROFILES", "").split(",") if name]
    tier = next((one for one in TIERS if one == existing.get("ENGINE_TIER")), DEFAULT_TIER)
    brain_ip = existing.get("BRAIN_IP") or None
    bind_addr = existing.get("BIND_ADDR") or None
    beside = tuple(n for n in given if named == "hands" or n not in ENGINES.values())
    return Answers(
        role=named,
        preset=existing.get("VARIET_PRESET") or None,
        tier=tier,
        lan_ip=existing.get("LAN_IP") or None,
        brain_ip=brain_ip,
        hands_ip=existing.get("HANDS_IP") or None,
        brain_url=_unless(existing.get("OPENAI_COMPAT_URL"), base_url(brain_ip, BRAIN_PORT)),
        embed_url=_embed_url(existing, brain_ip),
        brain_key=existing.get("OPENAI_COMPAT_KEY") or None,
        profiles=beside if "COMPOSE_PROFILES" in existing else None,
        workspace=_folder(existing.get("WORKSPACE_DIR")),
        langfuse_url=_elsewhere(existing.get("LANGFUSE_BASE_URL"), bind_addr),
        model_store=_folder(existing.get("MODEL_STORE")),
        hf_home=_folder(existing.get("HF_HOME")),
        llamacpp=existing.get("LLAMACPP_VARIANT") or None,
        tei=existing.get("TEI_VARIANT") or None,
        cpus=_number(existing.get("ENGINE_CPUS"), 0) or None,
        bind_addr=bind_addr,
        langfuse_port=_number(existing.get("LANGFUSE_PORT"), 0) or None,
        uid=_number(existing.get("VARIET_UID"), 1000),
        gid=_number(existing.get("VARIET_GID"), 1000),
    )


def check_profiles(role: Role, names: tuple[str, ...]) -> None:
    for name in names:
        if name not in PROFILES[role]:
            raise SettingsError(
                "bad_profile",
                f"--profiles {name}: the stack of this role ({role}) has no such profile.",
                f"Choose of: {', '.join(PROFILES[role])}.",
            )


def base_url(ip: str | None, port: int) -> str | None:
    """Of the OpenAI server at an address."""
    return None if ip is None else f"http://{ip}:{port}/v1"


def langfuse_url(answers: Answers) -> str:
    """Of Langfuse, as this host reaches it."""
    port = answers.langfuse_port or LANGFUSE_PORT
    return answers.langfuse_url or f"http://{_published_at(answers.bind_addr)}:{port}"


def located(text: str) -> Path:
    """A folder as Compose takes it: relative to this repository."""
    return REPOSITORY / Path(text).expanduser()


def _published_at(bind_addr: str | None) -> str:
    near = bind_addr is None or bind_addr in LOOPBACK or bind_addr in EVERYWHERE
    return "127.0.0.1" if near else bind_addr or ""


def _elsewhere(url: str | None, bind_addr: str | None) -> str | None:
    """The address of a Langfuse that is not this host's own, at whatever port."""
    here = f"http://(127.0.0.1|{re.escape(_published_at(bind_addr))}):[0-9]+"
    return None if not url or re.fullmatch(here, url.rstrip("/")) else url


def _embed_url(existing: Mapping[str, str], brain_ip: str | None) -> str | None:
    """Of embeddings that are not the brain's."""
    followed = (existing.get("OPENAI_COMPAT_URL"), base_url(brain_ip, FORMER_EMBED_PORT))
    url = existing.get("EMBED_URL")
    return None if url in followed else _unless(url, base_url(brain_ip, BRAIN_PORT))


def _unless(value: str | None, derived: str | None) -> str | None:
    return None if not value or value == derived else value


def _folder(text: str | None) -> Path | None:
    return located(text) if text else None


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.isdigit() else default
