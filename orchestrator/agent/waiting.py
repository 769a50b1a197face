"""What the followers of a run see while its engine call waits: the stage `engine`."""

import time

from contracts.tiers import SwapProgress
from orchestrator.agent.model import elapsed_ms
from orchestrator.agent.turn import Turn

NAME = "engine"
TENTHS = 10
PHASES = {
    "drain": "letting other answers end",
    "stop": "unloading another model",
    "memory": "waiting for free memory",
}


class Waiting:
    """One engine call's stage `engine`: it begins with the first word of the gateway, changes with
    what is told, and ends when the engine answers. A call that never waits has none."""

    def __init__(self, turn: Turn, tier: str) -> None:
        self._turn = turn
        self._tier = tier
        self._since: float | None = None
        self._detail = ""

    def __enter__(self) -> "Waiting":
        return self

    def __exit__(self, *exc: object) -> None:
        self._end()

    def show(self, progress: SwapProgress | None) -> None:
        """`progress` None, or ready: nothing is waited for any more."""
        if progress is None or progress.stage == "ready":
            self._end()
            return
        detail = words(progress, self._tier)
        if detail == self._detail:
            return
        if self._since is None:
            self._since = time.perf_counter()
        self._detail = detail
        self._turn.emit("stage", {"name": NAME, "status": "started", "detail": detail})

    def _end(self) -> None:
        if self._since is None:
            return
        ms = elapsed_ms(self._since)
        done = {"name": NAME, "ms": ms, "detail": self._detail}
        self._turn.emit("stage", {**done, "status": "finished"})
        self._turn.progress.stages.append(done)
        self._since, self._detail = None, ""


def words(progress: SwapProgress, tier: str) -> str:
    """What a person reads: "balanced: waiting, place 2", "loading qwen3-4b 40 %". The share is told
    in tenths, so that a load is a few events and not a hundred."""
    if progress.stage != "loading":
        if progress.detail and not progress.position:
            return progress.detail
        if progress.stage == "draining" or not progress.position:
            return f"{tier}: waiting for other answers to end"
        return f"{tier}: waiting, place {progress.position}"
    before = PHASES.get(progress.phase or "")
    share = progress.progress
    done = "" if share is None else f" {int(share * TENTHS) * TENTHS} %"
    return f"{tier}: {before}" if before else f"loading {progress.engine}{done}"
