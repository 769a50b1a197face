"""`python -m tests.bench [PART]`: measure, print a table, write data/state/bench/PART.json.

A figure that misses its target is printed as such; it does not make the command fail.
"""

import argparse
import asyncio
import platform
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from tests.bench import gateway, runs
from tests.bench.table import Row, show, write

RESULTS = Path(__file__).resolve().parents[2] / "data/state/bench"
PARTS: Mapping[str, Callable[[], Awaitable[list[Row]]]] = {
    "runs": runs.measure,
    "gateway": gateway.measure,
}


async def main(names: list[str]) -> None:
    for name in names:
        started = time.perf_counter()
        rows = await PARTS[name]()
        show(rows, name)
        path = RESULTS / f"{name}.json"
        write(rows, path)
        seconds = time.perf_counter() - started
        print(f"{name}: {seconds:.0f} s on {platform.platform()}; written to {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("part", nargs="?", choices=sorted(PARTS), help="default: every part")
    chosen = parser.parse_args().part
    asyncio.run(main([chosen] if chosen else sorted(PARTS)))
