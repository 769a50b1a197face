"""Entries of a manifest, for tests that need no model behind them."""

from contracts.manifest import ManifestEntry, ModelSource


def entry(name: str, **more: object) -> ManifestEntry:
    fields: dict[str, object] = {
        "id": name,
        "about": "A model of these tests.",
        "kind": "chat",
        "engine": "llama.cpp",
        "source": ModelSource(url=f"https://example.org/{name}.gguf", bytes=1_000_000),
        "licence": "MIT",
        "context": 4_096,
        "context_max": 32_768,
        "vram_mib": 0,
        "ram_mib": 100,
    }
    return ManifestEntry.model_validate({**fields, **more})
