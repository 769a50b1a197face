"""Prompt caches of llama-server, kept on disk while its model is unloaded (GATEWAY_KEEP_KV).

A cache fits only the same weights, context, number format and build: all of them make the file's
name, so a file that does not fit is not found. The oldest files go first when there are too many.
Models with a recurrent state are left out: whether their state comes back whole is not known.

What it gains on a processor, for a prompt of 15,000 tokens of a small model without any: 14 s of
reading become 0.1 s, for 0.1 s more at the stop and a file of 4 MB. On cards reading is faster and
files are larger, gigabytes at 64 K tokens; there it has not been measured, so it is off by default.
"""

import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from services.gateway.catalogue import EngineSpec
from services.gateway.engines.calls import EngineCalls

LOG = logging.getLogger(__name__)
FOLDER_BYTES = 16 * 2**30
CALL_S = 60.0
ENDING = ".slot"
# What llama.cpp's log says of the two kinds of memory.
KEYS_AND_VALUES, RECURRENT = "llama_kv_cache", "llama_memory_recurrent"


@dataclass(frozen=True)
class Kept:
    """Where the caches of one running engine are kept. `folder` is the gateway's view of what the
    engine got as --slot-save-path."""

    spec: EngineSpec
    folder: Path
    model: Path
    base_url: str
    key: str
    context: int

    def file(self, build: str, slot: int) -> str:
        about = self.model.stat()
        parts = (
            *(self.spec.name, self.model.name, about.st_size, about.st_mtime_ns),
            *(self.context, self.spec.kv_cache, *self.spec.flags, build),
        )
        told = sha256("\0".join(str(part) for part in parts).encode()).hexdigest()[:24]
        return f"{told}-{slot}{ENDING}"


def plain(log: Iterable[str]) -> bool:
    """Whether a load's log tells of a model that keeps keys and values of its prompt, and nothing
    else."""
    lines = list(log)
    kept = any(KEYS_AND_VALUES in line for line in lines)
    return kept and not any(RECURRENT in line for line in lines)


async def save(kept: Kept | None, calls: EngineCalls) -> int:
    """Before a stop: write each slot's cache. Returns how many were written. Never fails: what
    cannot be kept is read again by the next request."""
    if kept is None or (build := await _build(kept, calls)) is None:
        return 0
    written = 0
    for slot in range(kept.spec.concurrency):
        name = kept.file(build, slot)
        answer = await calls.post(
            f"{kept.base_url}/slots/{slot}?action=save", kept.key, {"filename": name}, CALL_S
        )
        if answer.status == 200 and answer.json.get("n_saved"):
            written += 1
            continue
        with suppress(OSError):
            (kept.folder / name).unlink()
    shrink(kept.folder, FOLDER_BYTES)
    return written


async def restore(kept: Kept | None, calls: EngineCalls) -> int:
    """After a start: read what fits. Returns how many slots were filled. Never fails."""
    if kept is None or (build := await _build(kept, calls)) is None:
        return 0
    filled = 0
    for slot in range(kept.spec.concurrency):
        name = kept.file(build, slot)
        if not (kept.folder / name).is_file():
            continue
        answer = await calls.post(
            f"{kept.base_url}/slots/{slot}?action=restore", kept.key, {"filename": name}, CALL_S
        )
        filled += answer.status == 200
        if answer.status != 200:
            LOG.warning(
                "prompt cache not restored",
                extra={"engine": kept.spec.name, "error": answer.text[:300]},
            )
            # It would fail each time.
            with suppress(OSError):
                (kept.folder / name).unlink()
    return filled


def shrink(folder: Path, most: int) -> None:
    """Remove the oldest caches until all together have at most `most` bytes."""
    with suppress(OSError):
        found = [(about.stat(), about) for about in folder.glob(f"*{ENDING}")]
        found.sort(key=lambda pair: pair[0].st_mtime_ns, reverse=True)
        total = 0
        for about, path in found:
            total += about.st_size
            if total > most:
                path.unlink(missing_ok=True)


async def _build(kept: Kept, calls: EngineCalls) -> str | None:
    """The engine's build; None: it does not say."""
    answer = await calls.get(f"{kept.base_url}/props", kept.key)
    build = answer.json.get("build_info")
    return build if isinstance(build, str) else None
