"""`variet swap`: have a tier loaded, and see where the time goes."""

import time
from collections.abc import Callable, Iterable

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from cli.show import line
from cli.text import exact
from cli.tiers_client import gateway
from cli.tiers_wake import woken
from contracts.tiers import SwapProgress

INTERRUPTED = 130
REFRESH_PER_S = 8
WORDS = {
    "queue": "waiting for its turn",
    "drain": "letting other answers end",
    "stop": "stopping what is in the way",
    "memory": "waiting for free memory",
    "start": "starting the engine",
    "ready": "loading the model",
}


class Steps:
    """The parts of a load with the seconds of each, as far as it is. Prints itself."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = self._since = clock()
        self._name = ""
        self._note = ""
        self.done: list[tuple[str, float]] = []
        self.engine = ""

    def take(self, progress: SwapProgress) -> bool:
        """Note how far it is. True: another step has begun, and `done` holds one more."""
        self.engine = progress.engine
        name = step(progress)
        self._note = note(progress)
        if name == self._name:
            return False
        ended = self.end()
        self._name = name if progress.stage != "ready" else ""
        return ended

    def end(self) -> bool:
        """The present step is over; whether there was one."""
        ended, now = self._name, self._clock()
        if ended:
            self.done.append((ended, now - self._since))
        self._name, self._since = "", now
        return bool(ended)

    @property
    def total_s(self) -> float:
        return self._clock() - self._began

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for name, seconds in self.done:
            yield row(name, seconds)
        if self._name:
            text = row(self._name, self._clock() - self._since, self._note)
            text.stylize("yellow")
            yield text


def swap(tier: str, url: str | None, console: Console) -> int:
    """Load a tier; the exit status. Left by Ctrl-C, the load goes on for whoever else waits."""
    with gateway(url) as brain:
        woken(brain, console)
        steps = Steps()
        try:
            _follow(brain.load(tier), steps, console)
        except KeyboardInterrupt:
            line(console, f"Left. Unless somebody else waits for {tier}, its load ends now.")
            return INTERRUPTED
    name = f" ({exact(steps.engine)})" if steps.engine not in ("", tier) else ""
    line(console, f"{tier}{name} is ready after {steps.total_s:.1f} s.", "green")
    return 0


def _follow(progress: Iterable[SwapProgress], steps: Steps, console: Console) -> None:
    """Show it as it happens: on a terminal with the seconds that run, else each step at its end."""
    if not console.is_terminal:
        for one in progress:
            if steps.take(one):
                console.print(row(*steps.done[-1]))
        if steps.end():
            console.print(row(*steps.done[-1]))
        return
    with Live(steps, console=console, refresh_per_second=REFRESH_PER_S):
        for one in progress:
            steps.take(one)
        steps.end()


def step(progress: SwapProgress) -> str:
    if progress.phase:
        return progress.phase
    return {"queued": "queue", "draining": "drain", "loading": "memory", "ready": "ready"}[
        progress.stage
    ]


def note(progress: SwapProgress) -> str:
    parts = []
    if progress.stage == "queued" and progress.position:
        parts.append(f"place {progress.position}")
    if progress.progress is not None:
        parts.append(f"{progress.progress:.0%}")
    if progress.detail:
        parts.append(exact(progress.detail))
    return ", ".join(parts)


def row(name: str, seconds: float, told: str = "") -> Text:
    more = f"  {told}" if told else ""
    return Text(f"  {name:<7} {seconds:6.1f} s  {WORDS.get(name, name)}{more}")
