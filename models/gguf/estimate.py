"""What llama-server will take of each card and of main memory, from a model's header.

Weights, keys, values and states are exact: they were held against `llama-fit-params` and against
llama-server's log on a processor. Buffers of the computation follow a formula that was fitted
there; what a card adds (CUDA's own memory, copies for several cards, experts that are worked on
from main memory) is reckoned from llama.cpp's source and was not measured on one.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil

from models.budget import COMPUTE_MIB, CUDA_MIB
from models.gguf.cache import LayerCache, layer_caches
from models.gguf.header import Header, Tensor
from models.gguf.launch import Launch

MIB = 2**20
F32_BYTES = 4
MASK_BYTES = 2
HOST = -1
# llama.cpp works on several cards in a row, with the inputs of so many batches at once.
PIPELINE_COPIES = 4
# Of a process: code, tokenizer, threads; with CUDA, what its libraries take.
PROCESS_MIB = 100
CUDA_HOST_MIB = 500
MMPROJ_COMPUTE_MIB = 300
BLOCK = re.compile(r"blk\.(\d+)\.")
INPUTS = ("token_embd", "per_layer_token_embd", "position_embd", "token_types")
EXPERTS = re.compile(r"\.ffn_(up|down|gate|gate_up)_(ch|)exps\b")
FFN = re.compile(r"\.ffn_(up|down|gate)\.")
CARD = re.compile(r"[A-Za-z]+(\d+)$")
# A share of something by place: a card's number, or HOST.
Shares = dict[int, float]


@dataclass
class Part:
    """MiB of one device. `context`: keys, values and states. `other`: what the process itself
    takes, in main memory also the caches of prompts."""

    weights: float = 0
    context: float = 0
    compute: float = 0
    other: float = 0

    @property
    def mib(self) -> int:
        return ceil(self.weights + self.context + self.compute + self.other)


@dataclass(frozen=True)
class Estimate:
    """`cards` in the order that the engine sees them."""

    cards: tuple[Part, ...]
    host: Part = field(default_factory=Part)


def estimate(
    header: Header, launch: Launch, cards: Sequence[float] = (), mmproj_bytes: int = 0
) -> Estimate:
    """`cards` is the memory of each, in any unit; none: everything runs on the processor."""
    return _Reckoning(header, launch, tuple(cards)).result(mmproj_bytes)


class _Reckoning:
    def __init__(self, header: Header, launch: Launch, cards: tuple[float, ...]) -> None:
        self._header = header
        self._launch = launch
        self._layers = header.layers
        self._shares = _card_shares(launch, cards)
        self._parts = {HOST: Part(), **{index: Part() for index in range(len(cards))}}
        self._overrides = [
            (re.compile(pattern), place)
            for pattern, buffer in launch.overrides
            if (place := _place(buffer, len(cards))) is not None and _is_pattern(pattern)
        ]
        self._largest_host_expert = 0

    def result(self, mmproj_bytes: int) -> Estimate:
        for tensor in self._header.tensors:
            self._add(tensor.bytes, self._place_of(tensor), "weights")
        caches = layer_caches(self._header, self._launch)
        for index, cache in enumerate(caches):
            kept = cache.attention + cache.state * self._launch.parallel
            self._add(kept, self._place_of_cache(index), "context")
        used = [card for card in self._parts if card != HOST and self._parts[card].weights]
        self._buffers(used)
        self._processes(used, caches)
        self._projector(used, mmproj_bytes)
        host = self._parts.pop(HOST)
        return Estimate(tuple(self._parts.values()), host)

    def _add(self, size: float, shares: Shares, what: str) -> None:
        for place, share in shares.items():
            part = self._parts[place]
            setattr(part, what, getattr(part, what) + size * share / MIB)

    # Where things go.

    def _place_of(self, tensor: Tensor) -> Shares:
        for pattern, place in self._overrides:
            if pattern.search(tensor.name):
                return self._noted(tensor, {place: 1})
        match = BLOCK.match(tensor.name)
        if match:
            index = int(match[1])
            if index < self._launch.cpu_moe_layers and EXPERTS.search(tensor.name):
                return self._noted(tensor, {HOST: 1})
            if index < self._launch.cpu_ffn_layers and FFN.search(tensor.name):
                return {HOST: 1}
            return self._layer(index)
        if tensor.name.startswith(INPUTS):
            return self._input(tensor)
        return self._layer(self._layers)

    def _noted(self, tensor: Tensor, shares: Shares) -> Shares:
        if HOST in shares and EXPERTS.search(tensor.name):
            self._largest_host_expert = max(self._largest_host_expert, tensor.bytes)
        return shares

    def _input(self, tensor: Tensor) -> Shares:
        """Where the input is also the output, a card gets a copy of it."""
        output = self._layer(self._layers)
        if tensor.name != "token_embd.weight" or not self._tied or HOST in output:
            return {HOST: 1}
        return {HOST: 1, **output}

    @property
    def _tied(self) -> bool:
        embeds = self._header.value("pooling_type") is not None
        return not embeds and not any(t.name == "output.weight" for t in self._header.tensors)

    def _layer(self, index: int) -> Shares:
        """Of a layer's weights; the output is the layer after the last."""
        on_cards = min(self._launch.gpu_layers, self._layers + 1)
        first = self._layers + 1 - on_cards
        if not self._shares or index < first:
            return {HOST: 1}
        if self._launch.split_mode in ("row", "tensor"):
            return self._shares
        return {self._card_at((index - first) / on_cards): 1}

    def _card_at(self, place: float) -> int:
        reached = 0.0
        for card, share in self._shares.items():
            reached += share
            if place < reached:
                return card
        return max(self._shares)

    def _place_of_cache(self, index: int) -> Shares:
        if not self._launch.kv_offload:
            return {HOST: 1}
        shares = self._layer(index)
        if self._launch.split_mode == "row" and HOST not in shares:
            return {self._launch.main_gpu: 1}
        return shares

    # What working takes.

    def _buffers(self, used: list[int]) -> None:
        launch, number = self._launch, self._header.number
        rows = launch.ubatch * F32_BYTES / MIB
        tokens = launch.context * (1 if launch.unified else launch.parallel)
        mask = tokens * launch.ubatch * MASK_BYTES / MIB
        hidden = rows * (self._hidden + 3 * number("embedding_length"))
        logits = 0.0 if launch.embeddings else rows * self._vocabulary
        scores = 0.0 if launch.flash else rows * max(self._heads) * tokens
        if not used:
            self._parts[HOST].compute = logits + mask + hidden + scores
            return
        copies = PIPELINE_COPIES if self._pipelined(used) else 1
        experts = 2 * self._largest_host_expert / MIB
        output = self._layer(self._layers)
        for card in used:
            worked = (mask + rows * number("embedding_length")) * copies + hidden + scores + experts
            worked += logits * output.get(card, 0)
            self._parts[card].compute = max(COMPUTE_MIB, worked)
        self._parts[HOST].compute = mask + hidden + logits * output.get(HOST, 0)

    @property
    def _hidden(self) -> int:
        """Numbers of the widest layer within a block, for one token."""
        number = self._header.number
        dense = max(self._header.numbers("feed_forward_length", max(1, self._layers)))
        experts = number("expert_used_count") * (number("expert_feed_forward_length") or dense)
        shared = number("expert_shared_feed_forward_length")
        return max(dense, experts + shared)

    @property
    def _heads(self) -> tuple[int, ...]:
        return self._header.numbers("attention.head_count", max(1, self._layers))

    @property
    def _vocabulary(self) -> int:
        told = self._header.number("vocab_size")
        shapes = (t.shape for t in self._header.tensors if t.name == "token_embd.weight")
        return next((shape[1] for shape in shapes if len(shape) == 2), told)

    def _pipelined(self, used: list[int]) -> bool:
        launch = self._launch
        whole = launch.gpu_layers > self._layers and launch.kv_offload
        moved = launch.cpu_moe_layers or launch.cpu_ffn_layers or self._overrides
        return len(used) > 1 and launch.split_mode == "layer" and whole and not moved

    def _processes(self, used: list[int], caches: tuple[LayerCache, ...]) -> None:
        for card in used:
            self._parts[card].other += CUDA_MIB
        launch = self._launch
        kept = sum(
            cache.state + cache.attention / launch.streams * cache.windowed for cache in caches
        )
        many = min(launch.checkpoints, launch.context // max(1, launch.checkpoint_step) + 2)
        self._parts[HOST].other = (
            PROCESS_MIB
            + (CUDA_HOST_MIB if used else 0)
            + (0 if launch.embeddings else launch.cache_ram_mib)
            + (0 if launch.embeddings else kept * many * launch.parallel / MIB)
        )

    def _projector(self, used: list[int], size: int) -> None:
        if not size:
            return
        place = used[0] if used and self._launch.mmproj_offload else HOST
        self._parts[place].weights += size / MIB
        self._parts[place].compute += MMPROJ_COMPUTE_MIB


def _card_shares(launch: Launch, cards: tuple[float, ...]) -> Shares:
    if not cards:
        return {}
    if launch.split_mode == "none":
        return {min(launch.main_gpu, len(cards) - 1): 1}
    told = (*launch.split, *[0.0] * len(cards))[: len(cards)]
    weights = told if sum(told) > 0 else cards
    return {index: weight / sum(weights) for index, weight in enumerate(weights)}


def _place(buffer: str, cards: int) -> int | None:
    """Where a buffer of llama.cpp's is: `CPU`, `CUDA0`; None: nowhere that we know."""
    match = CARD.match(buffer)
    if match is None:
        return HOST if buffer.upper().startswith("CPU") else None
    return int(match[1]) if int(match[1]) < cards else None


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def largest_that_fits(
    fits: Callable[[int], bool], at_most: int, at_least: int, step: int = 1_024
) -> int:
    """The largest multiple of `step` within the two bounds for which `fits` holds; `at_least` where
    none does. `fits` has to hold for all that is smaller than what it holds for."""
    low, high = at_least // step, at_most // step
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle * step):
            low = middle
        else:
            high = middle - 1
    return max(at_least, low * step)
