"""Waiting for an engine that loads: until it answers, ends, or takes too long."""

import asyncio
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.gateway.catalogue import EngineSpec
from services.gateway.engines.calls import EngineCalls
from services.gateway.engines.engine import LoadError, OnPhase
from services.gateway.memory.load_log import out_of_memory

POLL_S = 0.1
# A log is read less often than /health: a container's costs a call of Docker's API.
LOG_EVERY = 5
SHOWN_LINES = 6
SHOWN_CHARACTERS = 1_200
MEANINGFUL = re.compile(
    r"error|fail|unable|cannot|couldn't|exception|abort|invalid|unknown|out of memory|\bE\b", re.I
)
NOISE = re.compile(r"cleaning up before exit|Traceback|^\s+File |^\s*\^+\s*$")
SHARDS = re.compile(r"(?:checkpoint shards|Loading weights)[^%\n]*?(\d{1,3})%")
DOTS = re.compile(r"(?<![^\s.])\.{4,}")
STAGES = (
    (re.compile(r"warming up|warmup|Capturing CUDA graph", re.I), "warming up"),
    (
        re.compile(r"llama_context:|llama_kv_cache|KV cache size|memory_recurrent"),
        "making the cache",
    ),
    (re.compile(r"load_tensors|loading model|Starting to load model", re.I), "loading the weights"),
)


@dataclass(frozen=True, slots=True)
class End:
    """How an engine ended by itself. `out_of_memory`: the kernel ended it for want of memory."""

    words: str
    out_of_memory: bool = False


class Loading(Protocol):
    """What is being started, as a process or as a container."""

    @property
    def base_url(self) -> str: ...

    @property
    def key(self) -> str: ...

    async def gone(self) -> End:
        """Returns when it has ended."""

    async def tail(self) -> Sequence[str]:
        """The last lines of its log."""


async def until_ready(
    spec: EngineSpec, loading: Loading, calls: EngineCalls, timeout_s: float, on_phase: OnPhase
) -> None:
    """Returns when the engine answers as `spec.name`. Raises LoadError with the log's last words;
    what was started is left to whoever did it."""
    going = asyncio.create_task(loading.gone())
    try:
        async with asyncio.timeout(timeout_s):
            await _watch(spec, loading, calls, going, on_phase)
    except TimeoutError:
        raise _late(spec, timeout_s, await loading.tail()) from None
    finally:
        going.cancel()


async def _watch(
    spec: EngineSpec,
    loading: Loading,
    calls: EngineCalls,
    going: "asyncio.Task[End]",
    on_phase: OnPhase,
) -> None:
    known: tuple[float | None, str] | None = None
    looks = 0
    while not await _asked(spec, loading, calls, going):
        await asyncio.wait({going}, timeout=POLL_S)
        if going.done():
            raise broken(spec, going.result(), await loading.tail())
        if looks % LOG_EVERY == 0 and (now := progress(await loading.tail())) != known:
            known = now
            on_phase(*now)
        looks += 1
    on_phase(1.0, "ready")


async def _asked(
    spec: EngineSpec, loading: Loading, calls: EngineCalls, going: "asyncio.Task[End]"
) -> bool:
    """Whether it answers. One that has ended does not, whoever answers on its port."""
    asking = asyncio.create_task(answers(spec, loading.base_url, loading.key, calls))
    try:
        await asyncio.wait({asking, going}, return_when=asyncio.FIRST_COMPLETED)
        return not going.done() and asking.result()
    finally:
        asking.cancel()


async def answers(spec: EngineSpec, base_url: str, key: str, calls: EngineCalls) -> bool:
    """Whether an engine is up. llama-server has to know our key and its own name, too: on a host's
    port another program may answer."""
    if (await calls.get(f"{base_url}/health")).status != 200:
        return False
    if spec.entry.engine != "llama.cpp":
        return True
    answer = await calls.get(f"{base_url}/v1/models", key)
    listed = answer.json.get("data")
    names = [one.get("id") for one in listed if isinstance(one, dict)] if listed else []
    return answer.status == 200 and spec.name in names


def progress(lines: Iterable[str]) -> tuple[float | None, str]:
    """How far a load is by its log (0..1; None: it does not say), and in words."""
    text = "\n".join(lines)
    words = next((words for sign, words in STAGES if sign.search(text)), "starting")
    if words != "loading the weights":
        return (None, words)
    if found := SHARDS.findall(text):
        return (min(1.0, int(found[-1]) / 100), words)
    # llama.cpp prints a dot per hundredth.
    dots = max((len(run) for run in DOTS.findall(text)), default=0)
    return (min(1.0, dots / 100) if dots else None, words)


def broken(spec: EngineSpec, end: End, lines: Sequence[str]) -> LoadError:
    """Why an engine ended while it loaded."""
    said = last_words(lines)
    if end.out_of_memory or out_of_memory(lines):
        return LoadError(
            "out_of_memory",
            "engine_out_of_memory",
            f"{spec.name} does not fit into memory ({end.words}).{said}",
            "Unload another model, or give it a smaller context in the host's preset.",
        )
    return LoadError(
        "crashed",
        "engine_crashed",
        f"{spec.name} ended {end.words} before it answered.{said}",
        f"Its log says more: GET /tiers/{spec.name}/logs.",
    )


def told(end: End, lines: Sequence[str]) -> str:
    """How an engine that had answered ended, and its last words."""
    return f"{end.words}.{last_words(lines)}"


def _late(spec: EngineSpec, timeout_s: float, lines: Sequence[str]) -> LoadError:
    return LoadError(
        "timeout",
        "engine_load_timeout",
        f"{spec.name} did not answer within GATEWAY_LOAD_TIMEOUT_S={timeout_s:g}."
        f"{last_words(lines)}",
        "Set it higher, or choose a smaller model.",
    )


def last_words(lines: Sequence[str]) -> str:
    """The last lines that mean something, as the end of a sentence; empty when there are none."""
    kept = [line.strip() for line in lines if line.strip() and not NOISE.search(line)]
    chosen = [line for line in kept if MEANINGFUL.search(line)] or kept
    said = " | ".join(dict.fromkeys(chosen[-SHOWN_LINES:]))
    return f" It said: {said[-SHOWN_CHARACTERS:]}" if said else ""
