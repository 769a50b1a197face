"""What an engine is started with: the words of its command line and its environment.

`context` goes to llama-server as --ctx-size, that is, for all of its slots together: with
`--kv-unified`, or with one slot, a single request may take all of it, else its slot's share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contracts.deployment import Deployment
from contracts.preset import HostPreset
from services.gateway.catalogue import EngineSpec

LLAMACPP_PORT = 8080
VLLM_PORT = 8000
TEI_PORT = 8080
# An input of embeddings has to fit into one physical batch, whose buffers grow with its square.
POOLED_BATCH = 2_048
# What OpenAI takes in one request; TEI by itself refuses more than 32 inputs, or 2 MB.
TEI_INPUTS = 2_048
TEI_BYTES = 64 * 2**20
PARALLEL_FLAGS = ("--parallel", "-np")
# No page for people; --no-ui is the newer name, which older builds do not know. At 4 ("trace") the
# log tells the buffers, that is, what memory was really taken; texts of requests are not in it.
QUIET = ("--no-webui", "--verbosity", "4")


@dataclass(frozen=True)
class Launch:
    """`words` follow the program's name or the image's entry point."""

    words: tuple[str, ...]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Hub:
    """Where an engine fetches repositories by itself."""

    token: str = ""
    endpoint: str = ""

    @property
    def environment(self) -> dict[str, str]:
        told = {"HF_TOKEN": self.token, "HF_ENDPOINT": self.endpoint}
        return {name: value for name, value in told.items() if value}


def llama_server(
    spec: EngineSpec,
    context: int,
    *,
    model: str,
    host: str,
    port: int,
    key: str,
    slots: str | None = None,
) -> Launch:
    """`model` and `slots` (a folder for prompt caches) are paths as the engine sees them."""
    words = (
        *("--model", model),
        # Of several aliases it signs with the first in the alphabet, so it gets one.
        *("--alias", spec.name),
        *("--host", host, "--port", str(port)),
        *QUIET,
        *("--ctx-size", str(context)),
        *_use(spec, context),
        *_slots(spec),
        *(("--slot-save-path", slots) if slots else ()),
        *spec.flags,
    )
    return Launch(words, {"LLAMA_API_KEY": key})


def _use(spec: EngineSpec, context: int) -> tuple[str, ...]:
    if spec.entry.kind not in ("embed", "rerank"):
        return ("--jinja", "--metrics")
    batch = str(min(context, POOLED_BATCH))
    sizes = ("--batch-size", batch, "--ubatch-size", batch)
    if spec.entry.kind == "rerank":
        return ("--reranking", *sizes, "--metrics")
    return ("--embeddings", "--pooling", "cls", *sizes, "--metrics")


def _slots(spec: EngineSpec) -> tuple[str, ...]:
    """As many as requests are let in: by itself it makes four, each with a state of its own."""
    if any(flag in PARALLEL_FLAGS for flag in spec.flags):
        return ()
    return ("--parallel", str(spec.concurrency))


def vllm(spec: EngineSpec, context: int, *, key: str, memory_share: float, hub: Hub) -> Launch:
    words = (
        spec.entry.source.repository or spec.entry.id,
        *("--served-model-name", *(spec.checked_names or spec.names)),
        *("--host", "0.0.0.0", "--port", str(VLLM_PORT)),
        *("--max-model-len", str(context)),
        *("--gpu-memory-utilization", f"{memory_share:g}"),
        *(("--runner", "pooling") if spec.entry.kind in ("embed", "rerank") else ()),
        # Over PCIe it has been seen to return wrong data (github.com/noonghunna/club-3090, 922).
        *(("--disable-custom-all-reduce",) if len(spec.cards) > 1 else ()),
        *(("--enable-sleep-mode",) if spec.sleep else ()),
        *spec.flags,
    )
    environment = {
        "VLLM_API_KEY": key,
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        # The routes that put it to sleep are mounted in this mode only.
        **({"VLLM_SERVER_DEV_MODE": "1"} if spec.sleep else {}),
        **hub.environment,
    }
    return Launch(words, environment)


def text_embeddings(spec: EngineSpec, *, key: str, cache: str, hub: Hub) -> Launch:
    """`cache` is the hub's folder as the engine sees it."""
    environment = {
        "HOSTNAME": "0.0.0.0",
        "PORT": str(TEI_PORT),
        "HUGGINGFACE_HUB_CACHE": cache,
        "API_KEY": key,
        "MAX_CLIENT_BATCH_SIZE": str(TEI_INPUTS),
        "PAYLOAD_LIMIT": str(TEI_BYTES),
        "MODEL_ID": spec.entry.source.repository or spec.entry.id,
        "REVISION": spec.entry.source.revision or "main",
        **hub.environment,
    }
    return Launch(("--json-output", *spec.flags), environment)


def card_environment(spec: EngineSpec, devices: Mapping[int, str]) -> dict[str, str]:
    """Which cards an engine sees; none, if it runs on the processor. `devices` says how the driver
    calls the preset's cards."""
    seen = ",".join(devices.get(card, str(card)) for card in spec.cards)
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": seen}


def card_devices(deployment: Deployment, preset: HostPreset) -> dict[int, str]:
    """How the driver calls each card of the preset: its index or UUID, as the settings name them in
    the order of the preset's roles."""
    devices = {place: str(place) for place in range(len(preset.cards))}
    if preset.emb_card is not None:
        _name(devices, (preset.emb_card,), deployment.nvidia_visible_devices_emb)
    _name(devices, preset.llm_cards, deployment.nvidia_visible_devices_llm)
    return devices


def _name(devices: dict[int, str], cards: Sequence[int], told: str) -> None:
    names = [name.strip() for name in told.split(",") if name.strip()]
    if len(names) == len(cards):
        devices.update(zip(cards, names, strict=True))
