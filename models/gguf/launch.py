"""What llama-server is started with, as far as its memory depends on it.

Names and defaults are those of llama-server 0.7 (build 11669); flags that do not matter are passed
over.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

ALL_LAYERS = 2**31
DEFAULT_CACHE_RAM_MIB = 8_192
# `--cache-ram -1` sets no limit; this is what we reckon with then.
UNLIMITED_CACHE_RAM_MIB = 2 * DEFAULT_CACHE_RAM_MIB
CHECKPOINTS = 32
CHECKPOINT_STEP = 8_192


@dataclass(frozen=True)
class Launch:
    """`context` is tokens per request. `gpu_layers` counts the output layer. `split` is the cards'
    shares, empty: by their memory. `overrides` are (pattern of tensor names, buffer)."""

    context: int
    parallel: int = 1
    unified: bool = False
    ubatch: int = 512
    key_type: str = "f16"
    value_type: str = "f16"
    flash: bool = True
    gpu_layers: int = ALL_LAYERS
    split_mode: str = "layer"
    split: tuple[float, ...] = ()
    main_gpu: int = 0
    cpu_moe_layers: int = 0
    cpu_ffn_layers: int = 0
    overrides: tuple[tuple[str, str], ...] = ()
    swa_full: bool = False
    kv_offload: bool = True
    cache_ram_mib: int = DEFAULT_CACHE_RAM_MIB
    checkpoints: int = CHECKPOINTS
    checkpoint_step: int = CHECKPOINT_STEP
    embeddings: bool = False
    mmproj: str | None = None
    mmproj_offload: bool = True

    @property
    def streams(self) -> int:
        """Caches that requests have of their own; with a unified one they share."""
        return 1 if self.unified else self.parallel


# Flags without a value, to the field that they set.
SWITCHES: dict[str, tuple[str, object]] = {
    "--cpu-moe": ("cpu_moe_layers", ALL_LAYERS),
    "-cmoe": ("cpu_moe_layers", ALL_LAYERS),
    "--kv-unified": ("unified", True),
    "-kvu": ("unified", True),
    "--no-kv-unified": ("unified", False),
    "-no-kvu": ("unified", False),
    "--swa-full": ("swa_full", True),
    "--no-kv-offload": ("kv_offload", False),
    "-nkvo": ("kv_offload", False),
    "--embeddings": ("embeddings", True),
    "--embedding": ("embeddings", True),
    "--rerank": ("embeddings", True),
    "--reranking": ("embeddings", True),
    "--no-mmproj": ("mmproj", None),
    "--no-mmproj-offload": ("mmproj_offload", False),
}
# Flags with a value, to the field that it is for.
VALUES: dict[str, str] = {
    "--parallel": "parallel",
    "-np": "parallel",
    "--ubatch-size": "ubatch",
    "-ub": "ubatch",
    "--cache-type-k": "key_type",
    "-ctk": "key_type",
    "--cache-type-v": "value_type",
    "-ctv": "value_type",
    "--flash-attn": "flash",
    "-fa": "flash",
    "--n-gpu-layers": "gpu_layers",
    "--gpu-layers": "gpu_layers",
    "-ngl": "gpu_layers",
    "--split-mode": "split_mode",
    "-sm": "split_mode",
    "--tensor-split": "split",
    "-ts": "split",
    "--main-gpu": "main_gpu",
    "-mg": "main_gpu",
    "--n-cpu-moe": "cpu_moe_layers",
    "-ncmoe": "cpu_moe_layers",
    "--n-cpu-ffn": "cpu_ffn_layers",
    "-ncffn": "cpu_ffn_layers",
    "--override-tensor": "overrides",
    "-ot": "overrides",
    "--cache-ram": "cache_ram_mib",
    "-cram": "cache_ram_mib",
    "--ctx-checkpoints": "checkpoints",
    "--swa-checkpoints": "checkpoints",
    "-ctxcp": "checkpoints",
    "--checkpoint-min-step": "checkpoint_step",
    "-cms": "checkpoint_step",
    "--mmproj": "mmproj",
    "-mm": "mmproj",
}
TEXTS = ("key_type", "value_type", "split_mode", "mmproj")


def read_flags(launch: Launch, flags: Sequence[str]) -> Launch:
    """`launch` with what the words of a command line say. A value that is no number is passed over:
    llama-server itself refuses it."""
    said: dict[str, object] = {}
    words = iter(flags)
    for word in words:
        if word in SWITCHES:
            field, value = SWITCHES[word]
            said[field] = value
        elif word in VALUES:
            field = VALUES[word]
            found = _value(field, next(words, ""))
            if found is not None:
                said[field] = found
    return replace(launch, **said)  # type: ignore[arg-type]


def _value(field: str, text: str) -> object | None:
    if field in TEXTS:
        return text.lower() if field != "mmproj" else text
    if field == "flash":
        return text not in ("off", "0", "false")
    if field == "overrides":
        pairs = (one.rpartition("=") for one in text.split(","))
        return tuple((pattern, buffer) for pattern, mark, buffer in pairs if mark)
    if field == "gpu_layers" and text in ("all", "auto"):
        return ALL_LAYERS
    try:
        if field == "split":
            return tuple(float(one) for one in text.replace("/", ",").split(","))
        number = int(text)
    except ValueError:
        return None
    if field == "cache_ram_mib" and number < 0:
        return UNLIMITED_CACHE_RAM_MIB
    if field in ("parallel", "ubatch"):
        return max(1, number)
    return ALL_LAYERS if number < 0 else number
