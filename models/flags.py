"""The flags of the chat engines: what a preset's tier and the manifest make of them."""

from contracts.manifest import ManifestEntry
from contracts.preset import HostPreset, Served


def engine_flags(preset: HostPreset, served: Served, entry: ManifestEntry) -> tuple[str, ...]:
    """Words for the engine's command line, without address, key, names, model and context."""
    if entry.engine == "vllm":
        revision = ("--revision", entry.source.revision) if entry.source.revision else ()
        dtype = ("--kv-cache-dtype", served.kv_cache) if served.kv_cache != "f16" else ()
        return (*revision, *dtype, *served.flags)
    layers = ("--n-gpu-layers", "all") if preset.cards else ()
    return (*layers, *_cache(served), *served.flags)


def _cache(served: Served) -> tuple[str, ...]:
    """llama.cpp keeps values in few bits only with flash attention."""
    if served.kv_cache == "f16":
        return ()
    kind = served.kv_cache
    return ("--flash-attn", "on", "--cache-type-k", kind, "--cache-type-v", kind)
