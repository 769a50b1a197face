"""What an engine's log tells of memory: how much it took of each device, and whether it ran out.

llama-server's lines are those of its builds up to 0.7 (11669); they are in the log from verbosity 4
on. vLLM's are those of 0.2x to 0.3x. What they say of cards was recorded, not run on one.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil

from models.budget import CUDA_MIB
from models.gguf.estimate import CUDA_HOST_MIB, PROCESS_MIB

# `load_tensors:   CPU_Mapped model buffer size =  1.00 MiB`, `llama_kv_cache:  CUDA0 KV buffer ...`
BUFFER = re.compile(
    r"\b(?P<device>[A-Za-z][\w-]*?) +(?P<what>model|KV|RS|compute|output) buffer size = +"
    r"(?P<mib>\d+\.\d+) MiB"
)
# What it may yet take of main memory, for prompts.
PROMPT_CACHE = re.compile(r"prompt cache is enabled, size limit: (?P<mib>\d+) MiB")
USING = re.compile(r"using device (?P<device>\w+) \(.*\) .*- (?P<mib>\d+) MiB free")
OUT_OF_MEMORY = re.compile(
    r"^out of memory|cudaMalloc failed: out of memory|CUDA error: out of memory|hipMalloc failed"
    r"|ErrorOutOfDeviceMemory|kIOGPUCommandBufferCallbackErrorOutOfMemory"
    r"|failed to allocate|unable to allocate"
    r"|insufficient memory|std::bad_alloc|[Cc]annot allocate memory"
    r"|OutOfMemoryError|CUDA out of memory|HIP out of memory"
    r"|No available memory for the cache blocks"
    r"|larger than the (?:available KV cache memory|maximum number of tokens that can be stored)"
    r"|less than desired GPU memory utilization"
)
# They may be read as a want of memory, but are a step on the way: another one is tried.
TRIED_AGAIN = re.compile(r"retrying without pipeline parallelism|pinned memory|falling back")
CARD = re.compile(r"^(?:CUDA|ROCm|HIP|Vulkan|SYCL|MTL|Metal|MUSA|CANN)(?P<card>\d*)$")


@dataclass
class LoadLog:
    """`buffers` is MiB by the engine's own names of devices: `CUDA0`, `CPU`, `CUDA_Host`, ...;
    `free` what it found free at its start; `prompt_cache` is MiB that it may fill with prompts.
    `reason` is the line that tells of a want of memory."""

    buffers: dict[str, float] = field(default_factory=dict)
    free: dict[str, int] = field(default_factory=dict)
    prompt_cache: int = 0
    reason: str = ""

    @property
    def out_of_memory(self) -> bool:
        return bool(self.reason)

    def by_device(self, cards: Sequence[int]) -> dict[str, int]:
        """Whole MiB by `card0`, ... and `ram`. `cards` are the positions of the engine's cards in
        the order that it sees them. Empty: the log told nothing."""
        taken: dict[str, float] = {}
        for device, mib in self.buffers.items():
            name = _device(device, cards)
            taken[name] = taken.get(name, 0) + mib
        on_cards = bool(taken.keys() - {"ram"})
        host = PROCESS_MIB + self.prompt_cache + (CUDA_HOST_MIB if on_cards else 0)
        for name in taken:
            taken[name] += host if name == "ram" else CUDA_MIB
        return {name: ceil(mib) for name, mib in taken.items()}


def read_log(lines: Iterable[str]) -> LoadLog:
    """Everything that one start's lines tell; text that is no such line is passed over."""
    log = LoadLog()
    # What a line says replaces what the same part of the same device said before: with memory
    # short, llama.cpp reserves its buffers again. Weights come in one line per file.
    seen: dict[tuple[str, str], float] = {}
    for line in lines:
        if match := BUFFER.search(line):
            key = (match["device"], match["what"])
            before = seen.get(key, 0) if _adds_up(match["what"], line) else 0
            seen[key] = before + float(match["mib"])
        elif match := USING.search(line):
            log.free[match["device"]] = int(match["mib"])
        elif match := PROMPT_CACHE.search(line):
            log.prompt_cache = int(match["mib"])
        elif not log.reason and OUT_OF_MEMORY.search(line) and not TRIED_AGAIN.search(line):
            log.reason = line.strip()[:300]
    for (device, _), mib in seen.items():
        log.buffers[device] = log.buffers.get(device, 0) + mib
    return log


def seen_mib(lines: Iterable[str], cards: Sequence[int]) -> dict[str, int]:
    """What a start that went well took of each device, as far as llama-server's log tells."""
    return read_log(lines).by_device(cards)


def out_of_memory(lines: Iterable[str]) -> bool:
    """Whether a start that went wrong did so for want of memory."""
    return read_log(lines).out_of_memory


def _adds_up(what: str, line: str) -> bool:
    """One line for each file, and for each of a model's caches: full and windowed."""
    return what == "model" or (what == "KV" and "kv_cache" in line)


def card_of(name: str, cards: Sequence[int]) -> str | None:
    """`card0` for `CUDA0`, ...; None: main memory, or no card of this engine."""
    match = CARD.match(name)
    index = int(match["card"] or 0) if match else len(cards)
    return f"card{cards[index]}" if index < len(cards) else None


def _device(name: str, cards: Sequence[int]) -> str:
    """`CUDA_Host` and `CPU_Mapped` are main memory, as are a processor's own formats, `AMX`."""
    return card_of(name, cards) or "ram"
