"""What the gateway costs between a client and its engine: against the engine itself, and against
LiteLLM's proxy in the same minutes.

BENCH_REQUESTS says how many requests the memory is watched over (100,000), BENCH_ROUNDS how often
each round of streams is asked for (3).
"""

import asyncio
import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from tests.bench.gateway_sides import (
    Asker,
    Side,
    asker,
    bare_start,
    gateway,
    litellm,
    load,
    metrics,
)
from tests.bench.process import child
from tests.bench.table import Row, at_most

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
REQUESTS = int(os.environ.get("BENCH_REQUESTS", "100000"))
PACE = 80
STREAM_CHUNKS = 80
LEVELS = {1: 4, 32: 32, 128: 128}  # streams at once: streams per round
MOST_MS = {1: (50, 2.0), 32: (95, 6.0)}
TIMES_LITELLM = 15.0
PER_CPU = {"gateway": 3_000, "LiteLLM": 150}  # requests whose processor time is taken
ANSWERS = 50  # asked for one after the other in each round
CHUNKS = 20
AT_ONCE = 8
PACED_AT_ONCE = 32
LONG = 500  # chunks of an answer whose throughput is taken
IDLE_MB = 80.0
GROWTH_MB = 2.0
MARKS = (0.2, 0.6, 1.0)
SWAPS = 10
OVERHEAD_MS = 300.0
PHASE = re.compile(r'swap_seconds_(sum|count)\{.*phase="(\w+)".*\} (\S+)')


async def measure() -> list[Row]:
    """Every row."""
    return await asyncio.to_thread(_measure)


def _measure() -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="variet-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        engine = stack.enter_context(child("tests.bench.gateway_engine", folder=folder))
        asking = stack.enter_context(asker(folder))
        ours = stack.enter_context(gateway(folder / "brain"))
        assert ours.process is not None
        rows = [at_most("idle memory", "MB", ours.process.rss_mb(), IDLE_MB)]
        load(ours, "fast")
        theirs = stack.enter_context(litellm(folder, engine.url))
        direct = Side("engine", engine.url, "none", "bench")
        sides = [direct, ours]
        if isinstance(theirs, str):
            rows.append(Row(f"LiteLLM not measured: {theirs}", "", None))
        else:
            sides.append(theirs)
            rows[0] = at_most("idle memory", "MB", rows[0].value, IDLE_MB, _rss(theirs))
        for side in sides:  # its first requests are not what is measured
            for stream in (True, False):
                asking.ask(side, stream=stream, chunks=CHUNKS, pace=0, at_once=4, requests=40)
        rows += _answers(asking, sides)
        for at_once, requests in LEVELS.items():
            rows += _streams(asking, sides, at_once, requests)
        rows += _per_cpu(asking, sides)
        rows += _throughput(asking, sides)
        rows += _growth(asking, ours)
        return rows + _swaps(ours, folder)


def _answers(asking: Asker, sides: Sequence[Side]) -> list[Row]:
    """Whole answers as JSON, one after the other: how much later than from the engine itself."""
    totals: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(ROUNDS):
        for side in sides:
            figures = asking.ask(
                side, stream=False, chunks=CHUNKS, pace=0, at_once=1, requests=ANSWERS
            )
            totals[side.name] += figures["total_ms"]
    most = {50: MOST_MS[1][1]}
    return [
        _added(
            f"added to a whole answer, p{percent}, 1 at once", totals, percent, most.get(percent)
        )
        for percent in (50, 95, 99)
    ]


def _streams(asking: Asker, sides: Sequence[Side], at_once: int, requests: int) -> list[Row]:
    """Streams of 80 tokens a second: how much later each chunk, and the first, comes than from the
    engine itself. The sides take turns."""
    chunks: dict[str, list[float]] = {side.name: [] for side in sides}
    firsts: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(ROUNDS):
        for side in sides:
            figures = asking.ask(
                side, stream=True, chunks=STREAM_CHUNKS, pace=PACE, at_once=at_once,
                requests=requests,
            )  # fmt: skip
            chunks[side.name] += figures["chunk_ms"]
            firsts[side.name] += figures["first_ms"]
    rows = []
    target = MOST_MS.get(at_once)
    for percent in (50, 95, 99):
        most = target[1] if target and target[0] == percent else None
        rows.append(
            _added(f"added per chunk, p{percent}, {at_once} streams", chunks, percent, most)
        )
    for percent in (50, 95):
        name = f"added to the first token, p{percent}, {at_once} streams"
        rows.append(_added(name, firsts, percent, None))
    return rows


def _added(name: str, found: dict[str, list[float]], percent: int, most: float | None) -> Row:
    base = percentile(found["engine"], percent)
    value = percentile(found["gateway"], percent) - base
    theirs = percentile(found["LiteLLM"], percent) - base if "LiteLLM" in found else None
    if most is not None:
        return at_most(name, "ms", value, most, theirs)
    return Row(name, "ms", value, theirs, value / theirs if theirs else None)


def _per_cpu(asking: Asker, sides: Sequence[Side]) -> list[Row]:
    """Without a pace an engine's chunks come many at once, which whoever passes on bytes hardly
    notices; with one, each comes alone, as from a model."""
    rows = []
    kinds = (
        ("as JSON", False, 0, AT_ONCE, 1),
        (f"of {CHUNKS} chunks", True, 0, AT_ONCE, 2),
        (f"of {CHUNKS} chunks at {PACE} a second", True, PACE, PACED_AT_ONCE, 3),
    )
    for kind, stream, pace, at_once, share in kinds:
        found: dict[str, float | None] = {}
        for side in sides:
            if side.process is None:
                continue
            requests = PER_CPU[side.name] // share
            before = side.process.cpu_s()
            asking.ask(
                side, stream=stream, chunks=CHUNKS, pace=pace, at_once=at_once, requests=requests
            )
            after = side.process.cpu_s()
            if before is not None and after is not None:
                found[side.name] = requests / (after - before)
        ours, theirs = found.get("gateway"), found.get("LiteLLM")
        name = f"answers {kind} per CPU second"
        if ours is None or theirs is None:
            rows.append(Row(name, "1/s", ours, theirs))
            continue
        times = ours / theirs
        target = f"ratio >= {TIMES_LITELLM:g}"
        rows.append(Row(name, "1/s", ours, theirs, times, target, times >= TIMES_LITELLM))
    return rows


def _throughput(asking: Asker, sides: Sequence[Side]) -> list[Row]:
    found: dict[str, float] = {}
    for side in sides:
        figures = asking.ask(
            side, stream=True, chunks=LONG, pace=0, at_once=AT_ONCE, requests=AT_ONCE * 3
        )
        found[side.name] = AT_ONCE * 3 * LONG / figures["wall_s"]
    theirs = found.get("LiteLLM")
    ratio = found["gateway"] / theirs if theirs else None
    return [
        Row(f"chunks a second, {AT_ONCE} streams", "1/s", found["gateway"], theirs, ratio),
        Row("the same from the engine itself", "1/s", found["engine"]),
    ]


def _growth(asking: Asker, ours: Side) -> list[Row]:
    """Resident memory after a fifth of the requests, three fifths, and all."""
    assert ours.process is not None
    done, seen = 0, []
    for mark in MARKS:
        wanted = round(REQUESTS * mark)
        asking.ask(ours, stream=False, chunks=1, pace=0, at_once=AT_ONCE, requests=wanted - done)
        done = wanted
        seen.append(ours.process.rss_mb())
    first, middle, last = seen
    name = f"memory growth, requests {round(REQUESTS * MARKS[0]):,} to {REQUESTS:,}"
    if first is None or middle is None or last is None:
        return [at_most(name, "MB", None, GROWTH_MB)]
    return [
        at_most(name, "MB", last - first, GROWTH_MB),
        Row("of it in the second half", "MB", last - middle),
        Row(f"memory after {REQUESTS:,} requests", "MB", last),
    ]


def _swaps(ours: Side, folder: Path) -> list[Row]:
    """Two models in turn, one of which fits: the time of a swap, against that of starting the
    engine alone."""
    before = phases(metrics(ours))
    bare, swaps = [], []
    for number in range(SWAPS):
        bare.append(bare_start(folder))
        swaps.append(load(ours, "deep" if number % 2 == 0 else "fast"))
    after = phases(metrics(ours))
    overhead = median(swaps) - median(bare)
    rows = [
        Row("swap, and a bare start of the engine", "ms", median(swaps), median(bare)),
        at_most("swap less the bare start", "ms", overhead, OVERHEAD_MS),
    ]
    for phase, (total, count) in after.items():
        old_total, old_count = before.get(phase, (0.0, 0.0))
        if count > old_count:
            mean = (total - old_total) / (count - old_count)
            rows.append(Row(f"of a swap: {phase}", "ms", mean * 1_000))
    return rows


def phases(exposition: str) -> dict[str, tuple[float, float]]:
    """Seconds and number of each phase of the swaps so far, of all models together."""
    found: dict[str, dict[str, float]] = {}
    for what, phase, value in PHASE.findall(exposition):
        of_phase = found.setdefault(phase, {"sum": 0.0, "count": 0.0})
        of_phase[what] += float(value)
    return {phase: (one["sum"], one["count"]) for phase, one in found.items()}


def percentile(values: Sequence[float], percent: int) -> float:
    return quantiles(values, n=100)[percent - 1] if len(values) > 1 else values[0]


def _rss(side: Side) -> Any:
    return side.process.rss_mb() if side.process else None
