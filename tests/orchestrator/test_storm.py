"""Many callers at once who ask, wait in line, interrupt, stop and decide, by chance from a seed:
whatever they do, every run ends, no thread is torn, and nothing runs without a yes."""

import asyncio
import os
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from contracts.chat import ENDED, ApprovalDecision, ChatRequest
from contracts.errors import Conflict
from tests.support.hands import Hands, hands
from tests.support.probe_tools import Probe
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripted_reply import script
from tests.support.threads import check_messages

OWNER = "local"
DONE = {"text": "Done."}
SEEDS = int(os.environ.get("STORM_SEEDS", "4"))
CALLERS = 8
ACTIONS = 12
PATIENCE_S = 0.1


def message(chance: random.Random) -> str:
    kinds = ["look"] * 2 + ["change"] * 3
    calls = [
        {"name": chance.choice(kinds), "arguments": {"text": chance.choice("abc")}}
        for _ in range(chance.randint(0, 3))
    ]
    slow = {"tokens": 5, "delay_ms": chance.choice([0, 2])}
    return script({"tool_calls": calls}, slow) if calls else script(slow)


class Caller:
    """One of many, with chances of its own."""

    def __init__(self, variet: Hands, thread_id: str, seed: int) -> None:
        self.chance = random.Random(seed)
        self.whole = variet.orchestrator
        self.thread_id = thread_id
        self.asked: list[str] = []
        self.approved = 0

    async def act(self) -> None:
        for _ in range(ACTIONS):
            action = self.chance.choice([self.ask, self.ask, self.stop, self.decide, self.decide])
            with suppress(Conflict):
                await action()

    async def ask(self) -> None:
        busy: Any = self.chance.choice(["queue", "interrupt", "reject"])
        request = ChatRequest(message=message(self.chance), thread_id=self.thread_id, on_busy=busy)
        self.asked.append(await self.whole.runs.submit(request, OWNER))
        if self.chance.random() < 0.5:
            await self.wait(self.asked[-1])

    async def wait(self, run_id: str) -> None:
        """For a while: what it waits for may itself wait for an approval."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await self.whole.runs.wait(run_id)

    async def stop(self) -> None:
        if self.asked:
            await self.whole.runs.stop(self.chance.choice(self.asked))

    async def decide(self) -> None:
        pending = await self.whole.approvals.pending(OWNER)
        if not pending:
            return
        approval = self.chance.choice(pending)
        verdict: Any = self.chance.choice(["approve", "approve", "reject"])
        await self.whole.approvals.decide(approval.id, OWNER, ApprovalDecision(decision=verdict))
        self.approved += verdict == "approve"
        if self.chance.random() < 0.3:
            await self.wait(approval.run_id)


async def settle_all(variet: Hands) -> None:
    """Stop what still asks or waits, until every run has ended."""
    whole = variet.orchestrator
    for run in await whole.store.runs(OWNER, 1_000):
        await whole.runs.stop(run.id)
    for run in await whole.store.runs(OWNER, 1_000):
        assert run.status in ENDED


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_whatever_many_callers_do_at_once_every_run_ends_well(
    engine: ScriptedEngine, probe: Probe, tmp_path: Path, seed: int
) -> None:
    async with hands(engine.url, tmp_path, probe.server) as variet:
        threads = [(await variet.ask(script(DONE)))["thread_id"] for _ in range(3)]
        callers = [
            Caller(variet, threads[n % len(threads)], seed * 100 + n) for n in range(CALLERS)
        ]
        async with asyncio.timeout(60):
            await asyncio.gather(*(caller.act() for caller in callers))
            await settle_all(variet)
        whole = variet.orchestrator
        assert whole.runs.active == 0
        assert await whole.approvals.pending(OWNER) == []
        assert await whole.store.queued_threads() == []
        assert await whole.store.resting_runs() == []
        runs = await whole.store.runs(OWNER, 1_000)
        assert len(runs) == len(threads) + sum(len(caller.asked) for caller in callers)
        for thread_id in threads:
            check_messages([m.body for m in await whole.store.messages(thread_id)])
        for run in runs:
            ids = [e["id"] for e in await whole.store.events(run.id, 0)]
            assert ids == sorted(set(ids))
        assert probe.calls["change"] <= sum(caller.approved for caller in callers)
        executions = [e for run in runs for e in await whole.parts.journal.executions_of(run.id)]
        finished = [e for e in executions if e.status == "finished"]
        assert len(finished) <= probe.calls["change"] + probe.calls["look"] <= len(executions)
        assert {e.status for e in executions} <= {"finished", "indeterminate"}
