"""What an engine will take of each device: predicted, and never less than it was seen to take."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from math import ceil
from pathlib import Path

from contracts.errors import EngineError
from contracts.preset import HostPreset
from models.budget import BUFFERS_MIB, kv_mib
from models.gguf.estimate import CUDA_HOST_MIB, PROCESS_MIB, estimate, largest_that_fits
from models.gguf.header import Header, read_model
from models.gguf.launch import Launch, read_flags
from services.gateway.catalogue import EngineSpec
from services.gateway.engines.commands import POOLED_BATCH
from services.gateway.memory.devices import RAM
from services.gateway.memory.learned import Learned

LOG = logging.getLogger(__name__)
MIB = 2**20
# vLLM asleep still holds CUDA's own memory and what it did not put aside.
ASLEEP_CARD_MIB = 1_024
# Of a projector whose file is not beside the model's.
UNKNOWN_MMPROJ_MIB = 1_024
LEAST_CONTEXT = 2_048
CONTEXT_STEP = 1_024
SHARE_FLAG = "--gpu-memory-utilization"


def needs(
    spec: EngineSpec,
    preset: HostPreset,
    context: int,
    model_path: Path | None,
    learned: Learned | None = None,
    told: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """MiB by device of an engine that is started with `context` tokens: the larger one of what is
    predicted and of what was seen. `model_path` is its file, as far as there is one here; `told` is
    what llama-fit-params says of its cards, and counts instead of what is predicted of them."""
    predicted = _predicted(spec, preset, context, model_path) | dict(told or {})
    seen = learned.peak(spec, context) if learned else {}
    devices = sorted(predicted.keys() | seen.keys())
    most = {device: max(predicted.get(device, 0), seen.get(device, 0)) for device in devices}
    return {device: mib for device, mib in most.items() if mib}


def asleep_needs(spec: EngineSpec, learned: Learned | None = None) -> dict[str, int] | None:
    """What vLLM holds while it sleeps; None: it does not. Level 1 keeps the weights in main memory,
    level 2 reads them again. Not run on a GPU."""
    if spec.entry.engine != "vllm" or not spec.sleep:
        return None
    seen = learned.asleep(spec) if learned else {}
    kept = (spec.entry.weights or spec.entry.vram_mib) if spec.sleep == 1 else 0
    held = {f"card{card}": ASLEEP_CARD_MIB for card in spec.cards}
    return {**held, RAM: spec.entry.ram_mib + kept, **seen}


def reduced_context(
    spec: EngineSpec,
    preset: HostPreset,
    model_path: Path | None,
    budget: Mapping[str, int],
) -> int:
    """Tokens for a second attempt after memory ran out: the largest multiple of 1,024 that fits
    `budget` by the prediction, at most half of what was configured, and at least a quarter of it or
    2,048, if that is more."""
    half = spec.context // 2 // CONTEXT_STEP * CONTEXT_STEP or spec.context // 2
    quarter = spec.context // 4
    least = min(half, max(LEAST_CONTEXT, quarter))

    def fits(context: int) -> bool:
        demand = _predicted(spec, preset, context, model_path)
        return all(mib <= budget.get(device, mib) for device, mib in demand.items())

    return largest_that_fits(fits, half, least, CONTEXT_STEP)


def launch_of(spec: EngineSpec, context: int) -> Launch:
    """As the engine's command line has it: `context` is all of its requests' together, unless they
    share one cache."""
    pooled = spec.entry.kind in ("embed", "rerank")
    launch = Launch(
        context=context,
        parallel=spec.concurrency,
        embeddings=pooled,
        ubatch=min(context, POOLED_BATCH) if pooled else Launch.ubatch,
        gpu_layers=Launch.gpu_layers if spec.cards else 0,
    )
    launch = read_flags(launch, spec.flags)
    return replace(launch, context=-(-context // launch.streams))


def _predicted(
    spec: EngineSpec, preset: HostPreset, context: int, model_path: Path | None
) -> dict[str, int]:
    entry = spec.entry
    if entry.engine == "vllm":
        share = _share(spec, preset)
        held = {f"card{card}": ceil(preset.cards[card].mib * share) for card in spec.cards}
        return {**held, RAM: entry.ram_mib}
    if entry.engine != "llama.cpp":
        return {**_spread(spec, preset, entry.vram_mib), RAM: entry.ram_mib}
    header = model_header(model_path)
    if header is None:
        return _by_manifest(spec, preset, context)
    launch = launch_of(spec, context)
    cards = [float(preset.cards[card].mib) for card in spec.cards]
    found = estimate(header, launch, cards, _projector_bytes(launch, model_path))
    held = {f"card{card}": part.mib for card, part in zip(spec.cards, found.cards, strict=True)}
    return {**held, RAM: found.host.mib}


def _by_manifest(spec: EngineSpec, preset: HostPreset, context: int) -> dict[str, int]:
    """The sums of models/budget.py, where the model's file is not here yet."""
    entry = spec.entry
    kept = 0 if spec.entry.kind in ("embed", "rerank") else launch_of(spec, context).cache_ram_mib
    if not spec.cards:
        return {RAM: entry.ram_mib + kept}
    ram = max(entry.ram_mib, kept + CUDA_HOST_MIB + PROCESS_MIB) + spec.ram_weights_mib
    if entry.kv is None or entry.weights is None:
        return {**_spread(spec, preset, entry.vram_mib), RAM: ram}
    shared = entry.weights - spec.ram_weights_mib + kv_mib(entry, context, spec.kv_cache)
    held = _spread(spec, preset, shared)
    buffers = BUFFERS_MIB[entry.engine]
    return {**{device: mib + buffers for device, mib in held.items()}, RAM: ram}


def _spread(spec: EngineSpec, preset: HostPreset, mib: float) -> dict[str, int]:
    """Over its cards as their memory is."""
    total = sum(preset.cards[card].mib for card in spec.cards)
    return {
        f"card{card}": ceil(mib * preset.cards[card].mib / total) for card in spec.cards if total
    }


def _share(spec: EngineSpec, preset: HostPreset) -> float:
    for flag, value in zip(spec.flags, spec.flags[1:], strict=False):
        if flag == SHARE_FLAG:
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                break
    return preset.gpu_mem_util


def _projector_bytes(launch: Launch, model_path: Path | None) -> int:
    if launch.mmproj is None or model_path is None:
        return 0
    try:
        return model_path.with_name(Path(launch.mmproj).name).stat().st_size
    except OSError:
        return UNKNOWN_MMPROJ_MIB * MIB


def model_header(path: Path | None) -> Header | None:
    """None: there is no file here, or none that can be read."""
    if path is None:
        return None
    try:
        stat = path.stat()
        return _header(path, stat.st_size, stat.st_mtime_ns)
    except (OSError, EngineError) as error:
        LOG.info("no header, the manifest's figures hold", extra={"error": str(error)})
        return None


@lru_cache(maxsize=16)
def _header(path: Path, size: int, changed_ns: int) -> Header:
    """Of a file that is as it was when it was last read."""
    return read_model(path)
