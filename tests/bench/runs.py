"""What a run costs beside the engine: Variet against a plain agent service, in the same minutes.

Both talk to the same scripted engine of zero latency. Their requests alternate one by one, so that
whatever else the machine does falls on both; medians are compared.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.client import Connection
from tests.bench.process import Child, child, resident_mb
from tests.bench.storage import exchange_bytes, flush_ms, stored_bytes
from tests.bench.table import Row, against, at_most, p95
from tests.bench.tool import NAME
from tests.support.scripted_reply import script

MOST = 1.5
WARM_UP = 20
ROUNDS = 100
BATCHES = 12
STREAMS = 32
TOKENS = 20
CPU_BLOCKS = 6
CPU_BLOCK = 60
STARTS = 5
START_S = 3.0
IDLE_MB = 200.0
IDLE_AFTER_S = 1.0
MEMORY_AT = (200, 600, 1_000)
MEMORY_STREAMS = 8
GROWTH_MB = 4.0  # the page caches of SQLite fill up to 2 MB each; a leak of 5 KB a run shows
KB = 1024

PLAIN = script({"text": "It is fine."})
STREAM = script({"tokens": TOKENS})
ONE_TOOL = script(
    {"tool_calls": [{"name": NAME, "arguments": {"series": "boost", "position": 7}}]},
    {"text": "It is fine."},
)
KINDS: Mapping[str, dict[str, Any]] = {
    "plain answer": {"message": PLAIN, "stream": True},
    "one-tool turn": {"message": ONE_TOOL, "stream": True},
    f"streaming {TOKENS} tokens": {"message": STREAM, "stream": True},
    "plain answer, as JSON": {"message": PLAIN},
    "one-tool turn, as JSON": {"message": ONE_TOOL},
}
STREAMING = f"streaming {TOKENS} tokens"
TOKEN = b"event: token"


@dataclass
class Side:
    """One of the two services, with what was measured of it."""

    service: Child
    connection: Connection
    total: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    first: list[float] = field(default_factory=list)
    batches: list[float] = field(default_factory=list)
    turns_per_cpu_s: list[float] = field(default_factory=list)
    memory_mb: list[float | None] = field(default_factory=list)

    async def ask(self, kind: str, counts: bool) -> None:
        timing = await self.connection.post("/chat", KINDS[kind])
        if not counts:
            return
        self.total[kind].append(timing.total_ms)
        if kind == STREAMING:
            assert timing.first_ms is not None
            self.first.append(timing.first_ms)

    async def stream_at_once(self) -> None:
        async with connections(self.service.url, STREAMS) as pool:
            started = time.perf_counter()
            await asyncio.gather(*(one.post("/chat", KINDS[STREAMING]) for one in pool))
            self.batches.append((time.perf_counter() - started) * 1_000)

    async def spend(self) -> None:
        before = self.service.cpu_s()
        # A server closes a connection that idles for five seconds: none is kept between blocks.
        async with connections(self.service.url, 1) as [connection]:
            for _ in range(CPU_BLOCK):
                await connection.post("/chat", KINDS["one-tool turn"])
        after = self.service.cpu_s()
        if before is not None and after is not None:
            self.turns_per_cpu_s.append(CPU_BLOCK / (after - before))

    async def run_up_to(self, done: int, wanted: int) -> None:
        """Run turns until `wanted` are done, several at once; note the memory then."""
        left = iter(range(wanted - done))

        async def work(connection: Connection) -> None:
            for _ in left:
                await connection.post("/chat", KINDS["one-tool turn"])

        async with connections(self.service.url, MEMORY_STREAMS) as pool:
            await asyncio.gather(*(work(one) for one in pool))
        self.memory_mb.append(self.service.rss_mb())

    @property
    def memory_growth(self) -> float | None:
        first, *_, last = self.memory_mb
        return None if first is None or last is None else last - first


@asynccontextmanager
async def connections(url: str, count: int) -> AsyncIterator[list[Connection]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Connection(url, TOKEN)) for _ in range(count)]


async def measure() -> list[Row]:
    """Every row, in about two minutes."""
    with tempfile.TemporaryDirectory(prefix="variet-bench-") as name:
        folder = Path(name)
        with child("tests.support.scripted_engine", folder=folder) as engine:
            return [
                *await _times(engine.url, folder),
                *_starts(engine.url, folder),
                *await _thousand_runs(engine.url, folder),
            ]


@asynccontextmanager
async def both(engine_url: str, folder: Path, state: Path) -> AsyncIterator[tuple[Side, Side]]:
    """Variet and the baseline, each freshly started."""
    with (
        child("tests.bench.variet", engine_url, str(state), folder=folder) as ours,
        child("tests.bench.baseline", engine_url, folder=folder) as theirs,
    ):
        async with connections(ours.url, 1) as [a], connections(theirs.url, 1) as [b]:
            yield Side(ours, a), Side(theirs, b)


async def _times(engine_url: str, folder: Path) -> list[Row]:
    flushes = []
    async with both(engine_url, folder, folder / "times") as (ours, theirs):
        for turn in range(-WARM_UP, ROUNDS):
            for kind in KINDS:
                for side in _alternating(ours, theirs, turn):
                    await side.ask(kind, counts=turn >= 0)
            flushes.append(flush_ms(folder / "flushes"))
        for turn in range(BATCHES):
            for side in _alternating(ours, theirs, turn):
                await side.stream_at_once()
        for turn in range(CPU_BLOCKS):
            for side in _alternating(ours, theirs, turn):
                await side.spend()
    rows = [against(kind, "ms", ours.total[kind], theirs.total[kind], MOST) for kind in KINDS]
    rows.insert(2, against("first token", "ms", ours.first, theirs.first, MOST))
    at_once = f"{STREAMS} streams at once"
    rows.append(against(at_once, "ms", ours.batches, theirs.batches, MOST))
    rows.append(_per_cpu_second(ours, theirs))
    flush = "flush of this disk; a tool call waits for two"
    rows.append(Row(flush, "ms", median(flushes), p95=p95(flushes)))
    return rows


def _alternating(ours: Side, theirs: Side, turn: int) -> tuple[Side, Side]:
    return (ours, theirs) if turn % 2 else (theirs, ours)


def _per_cpu_second(ours: Side, theirs: Side) -> Row:
    name, unit, target = "one-tool turns", "per CPU s", f"ratio >= {1 / MOST:.2f}"
    if not ours.turns_per_cpu_s:
        return Row(name, unit, None, target=target)
    value, baseline = median(ours.turns_per_cpu_s), median(theirs.turns_per_cpu_s)
    ratio = value / baseline
    return Row(name, unit, value, baseline, ratio, target, ratio >= 1 / MOST)


def _starts(engine_url: str, folder: Path) -> list[Row]:
    """The whole orchestrator as `python -m orchestrator` starts it: all tools, the index process.
    Its engine is up already."""
    environment = {
        "OPENAI_COMPAT_URL": engine_url,
        "STATE_DIR": str(folder / "starts"),
        "PORT": "0",
        "LOG_LEVEL": "error",
    }
    ours, theirs, idle = [], [], []
    for _ in range(STARTS + 1):
        with child("orchestrator", folder=folder, environment=environment) as service:
            ours.append(service.start_s)
            time.sleep(IDLE_AFTER_S)
            index = [resident_mb(pid) for pid in service.children()]
            idle.append((service.rss_mb(), index[0] if index else None))
        with child("tests.bench.baseline", engine_url, folder=folder) as service:
            theirs.append(service.start_s)
            baseline_mb = service.rss_mb()
    orchestrator_mb, index_mb = idle[-1]
    # The first start of each reads its files from the disk.
    start = at_most("start to ready", "s", median(ours[1:]), START_S, median(theirs[1:]))
    return [
        start,
        at_most("idle memory", "MB", orchestrator_mb, IDLE_MB, baseline_mb),
        Row("idle memory of the index process", "MB", index_mb),
    ]


async def _thousand_runs(engine_url: str, folder: Path) -> list[Row]:
    state = folder / "thousand"
    with child("tests.bench.variet", engine_url, str(state), folder=folder):
        pass
    empty = stored_bytes(state)
    done = 0
    async with both(engine_url, folder, state) as (ours, theirs):
        for wanted in MEMORY_AT:
            for side in (ours, theirs):
                await side.run_up_to(done, wanted)
            done = wanted
    grown = (stored_bytes(state) - empty) / KB / done
    exchanges = exchange_bytes(state) / KB / done
    first, _, last = MEMORY_AT
    growth = at_most(f"memory growth, runs {first} to {last}", "MB", ours.memory_growth, GROWTH_MB)
    return [
        replace(growth, baseline=theirs.memory_growth),
        Row("database growth per one-tool turn", "KB", grown),
        Row("  of it raw engine exchanges, kept for RAW_RUNS runs", "KB", exchanges),
    ]
