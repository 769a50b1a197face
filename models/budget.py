"""What a tier takes of each card's memory: weights, keys and values, buffers, and what is left.

All figures are whole MiB, rounded up. Weights are exact (file sizes; of repositories, as vLLM
reports them once loaded). Keys and values are computed from the model's shape. Buffers and CUDA's
own memory are estimates: 300 to 450 MiB of CUDA per process and card, at least 500 of buffers for
llama.cpp; for vLLM what its start-up run and its CUDA graphs take with few, short batches.
"""

from dataclasses import dataclass
from math import ceil, floor

from contracts.manifest import Manifest, ManifestEntry, Tier
from contracts.preset import HostPreset, KvCache, Served

BYTES: dict[KvCache, float] = {"f16": 2, "q8_0": 34 / 32, "fp8": 1}
COMPUTE_MIB = 500
CUDA_MIB = 400
BUFFERS_MIB = {"llama.cpp": COMPUTE_MIB + CUDA_MIB, "vllm": 1_500}
# What has to be left: llama.cpp's own rule is 1,024 for models that it does not know; vLLM leaves
# the rest of each card besides.
MARGIN_MIB = {"llama.cpp": 512, "vllm": 256}


@dataclass(frozen=True)
class CardBudget:
    """One card under one tier. `limit` is what the chat engine and, with llama.cpp, the others may
    take of it together; `others` is embeddings and reranking."""

    card: int
    name: str
    mib: int
    limit: int
    weights: int
    kv: int
    buffers: int
    others: int

    @property
    def margin(self) -> int:
        return self.limit - self.weights - self.kv - self.buffers - self.others


@dataclass(frozen=True)
class TierBudget:
    tier: Tier
    entry: ManifestEntry
    served: Served
    context: int
    cards: tuple[CardBudget, ...]

    @property
    def problem(self) -> str:
        """Why it does not fit; "" where it does."""
        least = MARGIN_MIB.get(self.entry.engine, 0)
        for card in self.cards:
            needed = least if card.weights else 0
            if card.margin < needed:
                return (
                    f"tiers.{self.tier}: {self.entry.id} with {self.context} tokens leaves"
                    f" {card.margin} MiB of card {card.card} ({card.name}, {card.mib} MiB);"
                    f" at least {needed} have to be left"
                )
        return ""


def budget(preset: HostPreset, tier: Tier, manifest: Manifest) -> TierBudget:
    """The budget of one tier on the preset's cards; no cards: nothing to reckon.

    Raises ValueError where the manifest lacks what it takes to reckon."""
    served = preset.tiers[tier]
    entry = manifest.get(served.model)
    if entry is None:
        raise ValueError(f"tiers.{tier}: {served.model} is not in the manifest")
    context = served.context or entry.context
    if context > entry.context_limit:
        raise ValueError(
            f"tiers.{tier}: {context} tokens are more than {entry.id} can take,"
            f" {entry.context_limit}"
        )
    cards = tuple(
        _card(preset, index, served, entry, context, manifest) for index in range(len(preset.cards))
    )
    return TierBudget(tier, entry, served, context, cards)


def kv_mib(entry: ManifestEntry, context: int, kv_cache: KvCache) -> float:
    """Keys and values of one request, in MiB."""
    if entry.kv is None:
        raise ValueError(f"{entry.id}: the manifest does not tell the shape of its keys and values")
    return entry.kv.mib(context, BYTES[kv_cache])


def _card(
    preset: HostPreset,
    index: int,
    served: Served,
    entry: ManifestEntry,
    context: int,
    manifest: Manifest,
) -> CardBudget:
    """The model is spread over its cards as their memory is."""
    card = preset.cards[index]
    others = _others(preset, manifest) if preset.emb_card == index else 0
    if index not in preset.llm_cards:
        return CardBudget(index, card.name, card.mib, card.mib, 0, 0, 0, others)
    if entry.weights is None:
        raise ValueError(f"{entry.id}: the manifest does not tell the size of its weights")
    share = card.mib / sum(preset.cards[one].mib for one in preset.llm_cards)
    return CardBudget(
        card=index,
        name=card.name,
        mib=card.mib,
        limit=_limit(preset, entry, card.mib, others),
        weights=ceil((entry.weights - served.ram_weights_mib) * share),
        kv=ceil(kv_mib(entry, context, served.kv_cache) * share),
        buffers=BUFFERS_MIB[entry.engine],
        others=others,
    )


def _limit(preset: HostPreset, entry: ManifestEntry, mib: int, others: int) -> int:
    """vLLM takes its share of the whole card, whoever else is on it."""
    if entry.engine != "vllm":
        return mib
    return min(floor(mib * preset.gpu_mem_util) + others, mib)


def _others(preset: HostPreset, manifest: Manifest) -> int:
    ids = [preset.embed, preset.rerank]
    return sum(entry.vram_mib for one in ids if one and (entry := manifest.get(one)))
