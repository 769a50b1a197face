"""A thousand requests, dozens of swaps, and clients that leave whenever they like."""

import asyncio
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.services.gateway.brain import (
    FLAGS,
    USER,
    Brain,
    Client,
    GatewayProcess,
    chat_body,
    running,
)

SEED = int(os.environ.get("STORM_SEED") or random.SystemRandom().randrange(2**32))
REQUESTS = 1_000
CONCURRENCY = 16
SWAPS = 60
MAX_WAIT_S = 3.0
SLOTS = 4
# Fast and balanced fit together, deep only alone.
MIB = {"fast": 100, "balanced": 100, "deep": 200}
LEAVING = 0.25
LEFT, SERVED = "left", "served"


@dataclass
class Sent:
    """One request. `leaves_after_s`: its client goes then; `leaves_after_chunks`: or there."""

    number: int
    tier: str
    chunks: int
    leaves_after_s: float | None
    leaves_after_chunks: int | None
    waited_s: float = 0.0
    streamed_s: float = 0.0
    end: str = ""


def planned(number: int, dice: random.Random) -> Sent:
    leaves = dice.random() < LEAVING
    by_time = dice.random() < 0.6
    chunks = dice.randrange(2, 20)
    return Sent(
        number,
        dice.choices(tuple(MIB), weights=(5, 4, 3))[0],
        chunks,
        dice.choice((0.0, 0.01, 0.1, 0.5, 1.5)) * dice.random() if leaves and by_time else None,
        dice.randrange(chunks) if leaves and not by_time else None,
    )


async def send(client: Client, sent: Sent) -> None:
    try:
        async with asyncio.timeout(sent.leaves_after_s):
            await _stream(client, sent)
    except TimeoutError:
        sent.end = LEFT


async def _stream(client: Client, sent: Sent) -> None:
    body = chat_body(sent.tier, stream=True, user=f"r{sent.number}")
    body["fake"] = {"chunks": sent.chunks, "tokens_per_s": 150}
    headers = {"Authorization": f"Bearer {USER}"}
    url = f"{client.url}/v1/chat/completions"
    began = time.monotonic()
    async with client.session.post(url, json=body, headers=headers) as answer:
        assert answer.status == 200, (sent, await answer.text())
        seen, done = 0, False
        async for line in answer.content:
            if seen == 0 and line.startswith(b"data: "):
                sent.waited_s = time.monotonic() - began
            if line.startswith(b"data: [DONE]"):
                done = True
            elif line.startswith(b"data: "):
                assert b'"error"' not in line, (sent, line)
                seen += 1
            if sent.leaves_after_chunks is not None and seen > sent.leaves_after_chunks:
                sent.end = LEFT
                return
        assert done, f"cut after {seen} chunks: {sent}"
        assert seen >= sent.chunks, f"chunks are lost: {seen} of {sent}"
    sent.streamed_s = time.monotonic() - began - sent.waited_s
    sent.end = SERVED


async def storm(client: Client, dice: random.Random) -> list[Sent]:
    plans = [planned(number, dice) for number in range(REQUESTS)]
    todo = iter(plans)

    async def worker() -> None:
        for sent in todo:
            await send(client, sent)

    async with asyncio.TaskGroup() as workers:
        for _ in range(CONCURRENCY):
            workers.create_task(worker())
    return plans


def longest_swap(gateway: GatewayProcess) -> float:
    """Seconds from an engine's order to go, or its start, to the one that is ready, at most."""
    went: dict[str, float] = {}
    longest = {"going": 0.0, "coming": 0.0}
    for line in gateway.log():
        at, engine = _seconds(line["time"]), line.get("engine", "")
        match line.get("message"):
            case "engine goes" | "engine starts":
                went[engine] = at
            case "engine is gone":
                longest["going"] = max(longest["going"], at - went[engine])
            case "engine ready":
                longest["coming"] = max(longest["coming"], at - went[engine])
    return longest["going"] + longest["coming"]


def _seconds(told: object) -> float:
    from datetime import datetime

    return datetime.fromisoformat(str(told)).timestamp() if isinstance(told, str) else 0.0


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values) or [0.0]
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def settled(client: Client) -> None:
    """Returns when no request is at an engine, or waits."""
    async with asyncio.timeout(30):
        while True:
            engines = (await client.tiers()).values()
            if not any(e["in_flight"] or e["queued"] for e in engines):
                return
            await asyncio.sleep(0.05)


@pytest.mark.timeout(300)
async def test_a_thousand_requests_over_dozens_of_swaps_lose_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    brain = Brain(
        tmp_path,
        served={tier: {"flags": ["--parallel", str(SLOTS), *FLAGS]} for tier in MIB},
        entries={tier: {"ram_mib": mib} for tier, mib in MIB.items()},
        settings={
            "GATEWAY_RAM_MIB": "200",
            "GATEWAY_MAX_WAIT_S": str(MAX_WAIT_S),
            "GATEWAY_MIN_WARM_S": "0.2",
        },
    )
    async with running(brain) as (gateway, client):
        began = time.monotonic()
        plans = await storm(client, random.Random(SEED))
        took = time.monotonic() - began
        await settled(client)
        swaps = len(brain.events("start"))
        served = [sent for sent in plans if sent.end == SERVED]
        stayed = {f"r{s.number}" for s in plans if s.end == SERVED}
        longest = max(sent.waited_s for sent in served)
        bound = MAX_WAIT_S + longest_swap(gateway) + max(sent.streamed_s for sent in served)
        with capsys.disabled():
            print(f"\nstorm: seed {SEED}, {len(served)} served of {REQUESTS}, {swaps} starts,")
            print(f"  {took:.1f} s, longest wait {longest:.2f} s, bound {bound:.2f} s")
            for tier in MIB:
                waits = [sent.waited_s for sent in served if sent.tier == tier]
                low, high = percentile(waits, 0.5), percentile(waits, 0.95)
                print(f"  {tier}: {len(waits)} waited p50 {low:.3f} s, p95 {high:.3f} s")
        assert all(sent.end for sent in plans)
        assert swaps >= SWAPS
        # None of those who stayed was cut; each was answered once.
        assert not [e for e in brain.events("cut") if e["user"] in stayed]
        answered = [e["user"] for e in brain.events("done") if e["user"] in stayed]
        assert sorted(answered) == sorted(stayed)
        # Every engine that runs is one that the gateway knows.
        ready = [e for e in (await client.tiers()).values() if e["state"] == "ready"]
        assert len(brain.engines_alive()) == len(ready)
        assert longest <= bound
        gateway.process.terminate()
        assert await gateway.wait() == 0
        assert brain.engines_alive() == set()
