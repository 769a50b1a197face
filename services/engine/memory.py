"""Whether a model fits into main memory, before minutes of loading show that it does not."""

from pathlib import Path

from contracts.errors import EngineError
from models.gguf.header import Header

MEMORY = Path("/proc/meminfo")
F16_BYTES = 2
GIB = 2**30


def check_memory(model: Path, header: Header, context: int, parallel: int) -> None:
    """Raise EngineError if the context's keys and values surely do not fit beside the weights.
    Says nothing where the size of either side is unknown."""
    keys_values = cache_bytes(header, context * parallel)
    available = available_bytes()
    if keys_values is None or available is None:
        return
    weights = model.stat().st_size
    if weights + keys_values <= available:
        return
    raise EngineError(
        "engine_out_of_memory",
        f"{model.name} needs {weights / GIB:.1f} GiB and its context {keys_values / GIB:.1f} GiB"
        f" ({parallel} x {context} tokens); {available / GIB:.1f} GiB of memory are available.",
        "Set a smaller MAX_MODEL_LEN or ENGINE_PARALLEL, or choose a smaller model.",
    )


def cache_bytes(header: Header, tokens: int) -> int | None:
    """Bytes of the f16 key-value cache of `tokens` tokens; None for models whose layers differ
    (sliding windows, recurrent layers, latent attention), where this sum does not hold."""
    layers = header.number("block_count")
    heads = header.number("attention.head_count")
    kv_heads = header.number("attention.head_count_kv")
    width = header.number("embedding_length")
    if not (layers and heads and kv_heads and width):
        return None
    if any(header.number(key) for key in ("attention.sliding_window", "ssm.state_size")):
        return None
    if header.number("attention.kv_lora_rank") or header.number("full_attention_interval"):
        return None
    key = header.number("attention.key_length") or width // heads
    value = header.number("attention.value_length") or width // heads
    return tokens * layers * kv_heads * (key + value) * F16_BYTES


def available_bytes() -> int | None:
    """Memory that can be had without swapping, bytes; None where the system does not tell."""
    if not MEMORY.exists():
        return None
    for line in MEMORY.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None
