"""`variet tiers`: how the brain's engines stand, and what can be done to them."""

import sys
import time
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cli.show import line
from cli.text import exact
from cli.tiers_client import Gateway, gateway
from contracts.tiers import DeviceStatus, EngineStatus, TiersStatus

WATCH_S = 1.0
BAR = 24
COLUMNS = ("tier", "engine", "state", "context", "in flight", "queued", "tok/s", "idle")
STYLES = {
    "ready": "green",
    "failed": "red",
    "loading": "yellow",
    "draining": "yellow",
    "unloading": "yellow",
}


def show(url: str | None, as_json: bool, watch: bool, console: Console) -> None:
    with gateway(url) as brain:
        if as_json:
            for status in _statuses(brain, watch):
                sys.stdout.write(status.model_dump_json(indent=None if watch else 2) + "\n")
                sys.stdout.flush()
        elif watch:
            _watch(brain, console)
        else:
            console.print(page(brain.tiers()))


def unload(tier: str, url: str | None, console: Console) -> None:
    with gateway(url) as brain:
        brain.unload(tier)
    line(console, f"{tier} is unloaded.")


def switch(tier: str, what: str, on: bool, url: str | None, console: Console) -> None:
    """`what`: pin or lock."""
    with gateway(url) as brain:
        brain.switch(tier, what, on)
    meaning = {
        ("pin", True): "is not unloaded for another model any more.",
        ("pin", False): "may be unloaded for another model again.",
        ("lock", True): "is the only one that is loaded from now on; requests for others fail.",
        ("lock", False): "is not the only one any more.",
    }
    line(console, f"{tier} {meaning[what, on]}")


def logs(tier: str, follow: bool, url: str | None) -> None:
    with gateway(url) as brain:
        for text in brain.logs(tier, follow):
            # It may hold anything: what would steer a terminal is shown instead.
            sys.stdout.write(f"{exact(text)}\n")
            sys.stdout.flush()


def reload(url: str | None, console: Console) -> None:
    with gateway(url) as brain:
        done = brain.reload()
    changes = (("added", done.added), ("changed", done.changed), ("removed", done.removed))
    told = [f"{word} {', '.join(names)}" for word, names in changes if names]
    line(console, f"Read again: {'; '.join(told) or 'nothing has changed'}.")


def page(status: TiersStatus) -> RenderableType:
    """The engines as a table, and a line per device."""
    table = Table(*COLUMNS, box=None, pad_edge=False, header_style="bold")
    for column in table.columns[3:]:
        column.justify = "right"
    for engine in status.engines:
        table.add_row(*_cells(engine, status))
    notes = [
        Text(f"{one.name}: {exact(one.error.message)} {exact(one.error.remedy)}", "red")
        for one in status.engines
        if one.error
    ]
    return Group(table, *notes, Text(""), *map(_device, status.devices))


def _cells(engine: EngineStatus, status: TiersStatus) -> Iterator[Text]:
    yield Text(", ".join(engine.tiers) or engine.kind)
    yield Text(exact(engine.name))
    yield _state(engine, locked=status.locked == engine.name)
    yield Text(f"{engine.context}{' (reduced)' if engine.context_reduced else ''}")
    yield Text(str(engine.in_flight))
    yield Text(str(engine.queued))
    yield Text("" if engine.tokens_per_s is None else f"{engine.tokens_per_s:.1f}")
    yield Text("" if engine.idle_s is None else _span(engine.idle_s))


def _state(engine: EngineStatus, locked: bool) -> Text:
    words: list[str] = [engine.state]
    if engine.phase:
        words.append(engine.phase)
    if engine.progress is not None:
        words.append(f"{engine.progress:.0%}")
    marks = [name for name, on in (("pinned", engine.pinned), ("locked", locked)) if on]
    if engine.unloads_in_s is not None:
        marks.append(f"unloads in {_span(engine.unloads_in_s)}")
    told = " ".join(words) + (f" ({', '.join(marks)})" if marks else "")
    return Text(told, STYLES.get(engine.state, ""))


def _device(device: DeviceStatus) -> Text:
    filled = min(BAR, round(BAR * device.reserved / max(1, device.budget)))
    bar = "#" * filled + "-" * (BAR - filled)
    free = "" if device.free is None else f", {device.free} free"
    told = f"{device.reserved} of {device.budget} MiB reserved{free}"
    return Text(f"{device.device:<6} [{bar}] {told}  {exact(device.name)}")


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _watch(brain: Gateway, console: Console) -> None:
    with Live(console=console, auto_refresh=False) as live:
        for status in _statuses(brain, again=True):
            live.update(page(status), refresh=True)


def _statuses(brain: Gateway, again: bool) -> Iterator[TiersStatus]:
    """How the engines stand; with `again`, once a second until the command is interrupted."""
    try:
        yield brain.tiers()
        while again:
            time.sleep(WATCH_S)
            yield brain.tiers()
    except KeyboardInterrupt:
        return
