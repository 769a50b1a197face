"""What a swap costs beyond the bare start of its engine.

`python -m tests.services.gateway.measure_swap [LOAD_S] [ROUNDS]`: two engines, one of which fits at
a time, are asked in turns; each start is compared with that of the same program without a gateway.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

from services.gateway.engines.processes import free_port
from tests.services.gateway.brain import ENGINE, Brain, Client, running

TIERS = ("fast", "balanced")
PHASES = ("stop", "memory", "start", "ready")


async def bare_start(brain: Brain, session: aiohttp.ClientSession) -> float:
    """Seconds until an engine that is started by hand answers /health with 200."""
    port, began = free_port(), time.monotonic()
    process = by_hand(brain, port)
    try:
        while True:
            try:
                async with session.get(f"http://127.0.0.1:{port}/health") as answer:
                    if answer.status == 200:
                        return time.monotonic() - began
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.02)
    finally:
        process.kill()
        process.wait()


def by_hand(brain: Brain, port: int) -> "subprocess.Popen[bytes]":
    words = [*ENGINE.split(), "--model", str(brain.model_file("fast")), "--port", str(port)]
    return subprocess.Popen(words, stderr=subprocess.DEVNULL, env={**os.environ})


async def measure(load_s: float, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        brain = Brain(Path(folder), settings={"GATEWAY_RAM_MIB": "150"})
        for tier in TIERS:
            brain.fault(tier, load_s=load_s)
        async with running(brain) as (_, client):
            await client.chat(TIERS[1])
            bare, swaps = [], []
            for number in range(rounds):
                bare.append(await bare_start(brain, client.session))
                swaps.append(await swap(client, TIERS[number % 2]))
            phases = await told_phases(client)
    extra = [1_000 * (swap - start) for swap, start in zip(swaps, bare, strict=True)]
    print(f"engines that load for {load_s:g} s, {rounds} swaps, milliseconds")
    print(f"  bare start     median {1_000 * statistics.median(bare):6.0f}")
    print(f"  swap           median {1_000 * statistics.median(swaps):6.0f}")
    print(f"  beyond it      median {statistics.median(extra):6.0f}, most {max(extra):.0f}")
    for phase, mean in phases.items():
        print(f"  phase {phase:8} mean   {1_000 * mean:6.0f}")


async def swap(client: Client, tier: str) -> float:
    """Seconds from a request for an engine that is not here to its whole answer."""
    began = time.monotonic()
    answer = await client.chat(tier, fake={"chunks": 1})
    assert answer.status == 200, answer.text
    return time.monotonic() - began


async def told_phases(client: Client) -> dict[str, float]:
    """Mean seconds of each phase, as /metrics tells."""
    text = (await client.ask("GET", "/metrics")).text
    found: dict[str, float] = {}
    for phase in PHASES:
        sums = [
            [
                float(line.rpartition(" ")[2])
                for line in text.splitlines()
                if line.startswith(f"variet_gateway_swap_seconds_{part}")
                and f'phase="{phase}"' in line
            ]
            for part in ("sum", "count")
        ]
        found[phase] = sum(sums[0]) / max(1.0, sum(sums[1]))
    return found


if __name__ == "__main__":
    load = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    times = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    asyncio.run(measure(load, times))
