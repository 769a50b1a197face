"""Host presets: what a kind of machine serves, and how. One file of `models/hosts` each."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from contracts.base import Message
from contracts.manifest import ModelId, ModelKind, Tier

KvCache = Literal["f16", "q8_0", "fp8"]
Profile = Literal["embeddings", "rerank"]
TIERS: tuple[Tier, ...] = ("fast", "balanced", "deep")


class Card(Message):
    """A graphics card, with its memory as nvidia-smi tells it."""

    name: str
    mib: int = Field(gt=0)
    compute: str | None = Field(
        None, pattern=r"^\d+\.\d$", description="NVIDIA's compute capability; null: not NVIDIA's"
    )


class Served(Message):
    """A model as a tier serves it. Its engine is that of the manifest. May be written as the id
    alone."""

    model: ModelId
    context: int | None = Field(None, ge=256, description="tokens; null: the manifest's")
    kv_cache: KvCache = Field("f16", description="number format of keys and values")
    flags: tuple[str, ...] = Field((), description="further flags of the engine")
    ram_weights_mib: int = Field(
        0, ge=0, description="of the weights, what the flags keep in main memory"
    )
    cards: tuple[int, ...] | None = Field(None, description="its cards; null: the preset's")
    sleep: Literal[0, 1, 2] = Field(
        0, description="vLLM: how deep it sleeps instead of stopping; 1 keeps the weights in RAM"
    )
    pinned: bool = Field(False, description="never unloaded for another model")
    preload: bool = Field(False, description="loaded when the gateway starts")
    ttl_s: float | None = Field(None, ge=0, description="idle seconds after which it is unloaded")
    min_warm_s: float | None = Field(
        None, ge=0, description="seconds that it stays once loaded; null: the gateway's"
    )

    @model_validator(mode="before")
    @classmethod
    def _id_alone(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value

    @field_validator("flags")
    @classmethod
    def _words(cls, flags: tuple[str, ...]) -> tuple[str, ...]:
        for flag in flags:
            if not flag or any(c.isspace() or c in "'\"$\\" for c in flag):
                raise ValueError(f"{flag!r} has to be one word without quotes, $ and backslashes")
        return flags


class Images(Message):
    """Services of services/images.yaml. Null: the machine does not run that engine in Docker."""

    llamacpp: str | None = Field(None, pattern=r"^llamacpp-[a-z0-9]+$")
    vllm: str | None = Field(None, pattern=r"^vllm-[a-z0-9]+$")
    tei: str | None = Field(None, pattern=r"^tei-[a-z0-9]+$")


class HostPreset(Message):
    """What a kind of machine serves: model ids by role, further names for them, and the settings
    of their engines. Without `cards` the models run on the CPU."""

    about: str
    cards: tuple[Card, ...] = ()
    llm_cards: tuple[int, ...] = Field((), description="cards of the chat engine")
    emb_card: int | None = Field(None, description="card of embeddings and reranking")
    ram_mib: int = Field(8_192, gt=0, description="main memory that the machine needs")
    engine_memory_mib: int = Field(6_144, gt=0, description="main memory that an engine may take")
    gpu_mem_util: float = Field(0.9, gt=0, le=1, description="share of a card that vLLM takes")
    native: bool = Field(False, description="the engines run outside Docker")
    images: Images = Images()
    profiles: tuple[Profile, ...] = Field((), description="what runs beside the chat engine")
    tiers: dict[Tier, Served]
    embed: ModelId
    classify: ModelId | None = Field(None, description="null: rules instead of a model")
    rerank: ModelId | None = None
    aliases: dict[str, ModelId] = {}
    notes: str = Field("", description="what else a person should know, for the page")
    lower_first: tuple[str, ...] = Field(
        (), description="when memory runs out: what to lower, in this order"
    )

    @field_validator("tiers")
    @classmethod
    def _all_tiers(cls, tiers: dict[Tier, Served]) -> dict[Tier, Served]:
        if missing := set(TIERS) - tiers.keys():
            raise ValueError(f"lacks {', '.join(sorted(missing))}")
        return {tier: tiers[tier] for tier in TIERS}

    @model_validator(mode="after")
    def _cards_exist(self) -> Self:
        used = {*self.llm_cards, *([] if self.emb_card is None else [self.emb_card])}
        used |= {card for served in self.tiers.values() for card in served.cards or ()}
        if unknown := sorted(used - set(range(len(self.cards)))):
            raise ValueError(f"card {unknown[0]} is not among the {len(self.cards)} cards")
        if self.cards and not self.llm_cards:
            raise ValueError("llm_cards has to name a card")
        return self

    @model_validator(mode="after")
    def _profiles_have_models(self) -> Self:
        if "rerank" in self.profiles and self.rerank is None:
            raise ValueError("the profile rerank needs a model: rerank")
        return self

    def roles(self) -> list[tuple[str, ModelKind, ModelId]]:
        """Each reference to a model: the key that holds it, the kind it has to be, the id."""
        used: list[tuple[str, ModelKind, ModelId | None]] = [
            *((f"tiers.{tier}", "chat", served.model) for tier, served in self.tiers.items()),
            ("embed", "embed", self.embed),
            ("classify", "classify", self.classify),
            ("rerank", "rerank", self.rerank),
        ]
        return [(key, kind, name) for key, kind, name in used if name is not None]
