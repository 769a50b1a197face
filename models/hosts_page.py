"""Writes docs/hosts.md: each preset, and its memory worked out card by card.

python -m models.hosts_page           # write it anew
python -m models.hosts_page --check   # exit 1 if it is out of date
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from contracts.manifest import Manifest
from contracts.preset import HostPreset
from models.budget import BUFFERS_MIB, MARGIN_MIB, budget
from models.flags import engine_flags
from models.manifest import load_manifest, load_preset, preset_names

PAGE = Path(__file__).parent.parent / "docs" / "hosts.md"
HEADER = f"""\
# Hardware presets

What the brain serves, by its hardware. `variet init --role brain` proposes the preset that makes
the most of the machine; `--preset NAME` takes another, `--tier NAME` chooses the tier that is
loaded at the start. The gateway loads the others when they are asked for. A preset is a file of
models/hosts; one whose tiers exceed its cards is refused. This page is made from those files and
models/manifest.yaml by `make docs`.

### A preset of your own

To serve another model, or one in another way, copy a preset and let `VARIET_PRESET` name the copy:

    cp models/hosts/2x3060.yaml models/hosts/mine.yaml    # then edit it
    .venv/bin/variet init --preset mine && make up

A tier names an entry of models/manifest.yaml (add one for a model that is not there), and may set
`context` (tokens), `kv_cache` (f16, q8_0, fp8), `flags` (further words of the engine's command
line), `cards`, `pinned`, `preload`, `ttl_s` and `min_warm_s`:

    tiers:
      fast: {{model: gpt-oss-20b, context: 16384, kv_cache: q8_0, flags: [--parallel, "1"]}}

After an edit of either file, `variet tiers reload` has a running gateway read both again: engines
that did not change stay loaded, and a file with a mistake changes nothing.

### How it is worked out

In MiB, rounded up:

- **weights**: the size of the file. Of qwen2.5-32b-awq, a repository, an estimate: 31.2 billion
  weights of 4.16 bits and 1.6 billion of 16 are 18.0 GiB; a little more is taken.
- **keys, values**: of the whole context, from the shape of the model: attention layers x tokens
  x 2 x heads x head size x bytes per number (f16: 2, q8_0: 34/32, fp8: 1). All requests at once
  share it.
- **buffers**: an estimate. llama.cpp: {BUFFERS_MIB["llama.cpp"]} per card, of which 300 to 450 are
  CUDA's own. vLLM: {BUFFERS_MIB["vllm"]:,} for its trial run and its CUDA graphs, with few and
  short batches.
- **beside it**: embeddings and reranking on that card, an estimate.
- **left**: of the card; of vLLM's share of it, GPU_MEM_UTIL, where vLLM serves. At least
  {MARGIN_MIB["llama.cpp"]} have to be left with llama.cpp, {MARGIN_MIB["vllm"]} with vLLM.

None of these presets has been run on its hardware by this project. On the machine, `nvidia-smi` and
the engine's own log have the last word.
"""


def page() -> str:
    manifest = load_manifest()
    sections = ["\n".join(_section(name, load_preset(name), manifest)) for name in preset_names()]
    return "\n".join((HEADER, *sections, "\n".join(_shapes(manifest)))) + "\n"


def main(arguments: list[str]) -> int:
    wanted = page()
    stale = not PAGE.exists() or PAGE.read_text("utf-8") != wanted
    if "--check" in arguments:
        if stale:
            print(f"{PAGE.name} is out of date: run `make docs`.", file=sys.stderr)
        return int(stale)
    if stale:
        PAGE.write_text(wanted, "utf-8")
    return 0


def _section(name: str, preset: HostPreset, manifest: Manifest) -> Iterator[str]:
    yield f"## {name}\n\n{preset.about}\n"
    yield from _facts(preset)
    yield ""
    yield from _tiers(preset, manifest)
    yield ""
    yield from _memory(preset, manifest) if preset.cards else _main_memory(preset, manifest)
    yield f"\n{preset.notes}\n" if preset.notes else ""
    yield "When memory runs out, lower first:\n"
    yield from (f"{number}. {what}" for number, what in enumerate(preset.lower_first, 1))
    yield ""


def _facts(preset: HostPreset) -> Iterator[str]:
    images = [one for one in (preset.images.llamacpp, preset.images.vllm, preset.images.tei) if one]
    yield f"- images: {', '.join(images) or 'none, the engines run natively'}"
    yield f"- beside the chat engine: {', '.join(preset.profiles) or 'nothing by itself'}"
    yield f"- embeddings: {preset.embed}; reranking: {preset.rerank or 'none'}"
    yield f"- classification of documents: {preset.classify or 'rules'}"
    limit = "" if preset.native else f"; an engine may take {preset.engine_memory_mib:,} MiB"
    yield f"- main memory: {preset.ram_mib:,} MiB or more{limit}"
    if preset.images.vllm:
        yield f"- vLLM's share of its card: GPU_MEM_UTIL={preset.gpu_mem_util:g}"


def _tiers(preset: HostPreset, manifest: Manifest) -> Iterator[str]:
    yield "| tier | model | engine | context | flags |"
    yield "| --- | --- | --- | --- | --- |"
    for tier, served in preset.tiers.items():
        entry = manifest.get(served.model)
        assert entry is not None, "load_preset has checked it"
        flags = " ".join(engine_flags(preset, served, entry))
        context = served.context or entry.context
        yield f"| {tier} | {entry.id} | {entry.engine} | {context:,} | `{flags}` |"


def _memory(preset: HostPreset, manifest: Manifest) -> Iterator[str]:
    yield "| tier | card | MiB | weights | keys, values | buffers | beside it | left |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for tier in preset.tiers:
        for card in budget(preset, tier, manifest).cards:
            sizes = (card.mib, card.weights, card.kv, card.buffers, card.others, card.margin)
            share = "" if card.margin == _rest(sizes) else f" of {card.limit:,}"
            figures = " | ".join(f"{size:,}" for size in sizes)
            yield f"| {tier} | {card.card}: {card.name} | {figures}{share} |"


def _rest(sizes: tuple[int, ...]) -> int:
    mib, *taken, _ = sizes
    return mib - sum(taken)


def _main_memory(preset: HostPreset, manifest: Manifest) -> Iterator[str]:
    yield "| tier | weights | with keys, values and buffers |"
    yield "| --- | ---: | ---: |"
    for tier, served in preset.tiers.items():
        entry = manifest.get(served.model)
        assert entry is not None, "load_preset has checked it"
        yield f"| {tier} | {entry.weights or 0:,} | {entry.ram_mib:,} |"


def _shapes(manifest: Manifest) -> Iterator[str]:
    yield "## Shapes\n\nWhat keys and values are worked out from.\n"
    yield "| model | layers | heads | head size | window layers | from |"
    yield "| --- | ---: | ---: | ---: | --- | --- |"
    for entry in manifest.models:
        if entry.kv:
            kv = entry.kv
            window = f"{kv.window_layers} of {kv.window} tokens" if kv.window_layers else ""
            sizes = f"{kv.layers} | {kv.heads} | {kv.head_dim}"
            yield f"| {entry.id} | {sizes} | {window} | {kv.source} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
