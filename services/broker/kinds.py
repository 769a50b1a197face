"""What the container of each engine may have. docs/stack.md says what its image needs it for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from contracts.broker import DockerHost, EngineImage

GIB = 2**30
CARDS = frozenset(
    {
        *("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "CUDA_MODULE_LOADING", "CUDA_CACHE_DISABLE"),
        *("CUDA_CACHE_MAXSIZE", "CUDA_DEVICE_MAX_CONNECTIONS", "CUDA_SCALE_LAUNCH_QUEUES"),
    }
)
HUB = frozenset({"HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"})
COMMON = CARDS | {"HOME", "TZ", "OMP_NUM_THREADS", "DO_NOT_TRACK"}
HUB_TARGET, CACHE_TARGET = "/root/.cache/huggingface", "/root/.cache/vllm"


@dataclass(frozen=True, slots=True)
class Mount:
    """`source` is a folder of the host, or a volume's name."""

    type: Literal["bind", "volume"]
    source: str
    target: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class Kind:
    """`env` are names, never with what loads code (LD_PRELOAD, CUDA_INJECTION64_PATH,
    VLLM_LOGGING_CONFIG_PATH), widens the cards (NVIDIA_VISIBLE_DEVICES) or stands for a flag of the
    command line (LLAMA_ARG_...). `folders` are what an absolute path in `Cmd` may begin with."""

    env: frozenset[str]
    folders: tuple[str, ...]
    pids: int
    shm: int
    root: bool = False
    entrypoint: tuple[str, ...] = ()
    cap_add: tuple[str, ...] = ()
    writable_root: bool = False


KINDS: Mapping[EngineImage, Kind] = {
    "llamacpp": Kind(
        env=COMMON | {"LLAMA_API_KEY", "GGML_CUDA_ENABLE_UNIFIED_MEMORY"},
        folders=("/models", "/slots"),
        pids=512,
        shm=GIB,
    ),
    "vllm": Kind(
        env=COMMON
        | HUB
        | {
            *("VLLM_API_KEY", "VLLM_NO_USAGE_STATS", "VLLM_DO_NOT_TRACK", "VLLM_LOGGING_LEVEL"),
            *("VLLM_SERVER_DEV_MODE", "VLLM_MEDIA_URL_ALLOW_REDIRECTS", "VLLM_SKIP_P2P_CHECK"),
            *("VLLM_USE_TRITON_AWQ", "VLLM_ENFORCE_STRICT_TOOL_CALLING", "VLLM_SLEEP_WHEN_IDLE"),
            *("VLLM_WORKER_MULTIPROC_METHOD", "VLLM_ATTENTION_BACKEND", "VLLM_CPU_KVCACHE_SPACE"),
            *("VLLM_CPU_OMP_THREADS_BIND", "VLLM_ENGINE_READY_TIMEOUT_S", "NCCL_P2P_DISABLE"),
            *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"),
        },
        folders=("/models", HUB_TARGET, CACHE_TARGET),
        pids=4096,
        shm=8 * GIB,
        root=True,
        cap_add=("DAC_OVERRIDE",),
        writable_root=True,
    ),
    "tei": Kind(
        env=COMMON
        | HUB
        | {
            *("HOSTNAME", "PORT", "HUGGINGFACE_HUB_CACHE", "API_KEY", "MODEL_ID", "REVISION"),
            *("MAX_CLIENT_BATCH_SIZE", "MAX_BATCH_TOKENS", "MAX_CONCURRENT_REQUESTS", "DTYPE"),
            *("POOLING", "AUTO_TRUNCATE", "PAYLOAD_LIMIT", "TOKENIZATION_WORKERS", "JSON_OUTPUT"),
            *("LOG_LEVEL", "DEFAULT_PROMPT"),
        },
        folders=("/data",),
        pids=512,
        shm=GIB,
        entrypoint=("text-embeddings-router",),
    ),
}


def mounts_of(kind: EngineImage, host: DockerHost) -> tuple[Mount, ...]:
    """All that an engine of this kind may have mounted. TEI gets the whole hub: whoever writes the
    hub could put a link to the host's root in the place of a folder in it."""
    models = Mount("bind", host.mounts.models, "/models", True)
    hub = host.mounts.hub
    if kind == "llamacpp":
        return (models, Mount("volume", host.volumes.slots, "/slots", False))
    if kind == "vllm":
        cache = Mount("volume", host.volumes.vllm_cache, CACHE_TARGET, False)
        return (models, cache, *([Mount("bind", hub, HUB_TARGET, False)] if hub else []))
    return (Mount("bind", hub, "/data", False),) if hub else ()
