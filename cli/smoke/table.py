"""The rows of a smoke test, and the table that they make."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

from rich.console import Console

from cli.show import line
from cli.text import exact
from contracts.errors import VarietError

Status = Literal["ok", "failed", "off"]
STYLES: dict[Status, str] = {"ok": "green", "failed": "red", "off": "dim"}


@dataclass(frozen=True)
class Row:
    """What came of one check. `remedy` is empty unless it failed; `seconds` is how long it took."""

    name: str
    status: Status
    detail: str
    seconds: float
    remedy: str = ""


@dataclass(frozen=True)
class Check:
    """`run` returns what was seen, or raises VarietError. With `off` it is not run: the reason."""

    name: str
    run: Callable[[], str]
    off: str = ""


class Failed(VarietError):
    """A part answered, but not as it has to."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__("smoke_failed", message, remedy)


def perform(check: Check) -> Row:
    if check.off:
        return Row(check.name, "off", check.off, 0.0)
    began = time.monotonic()
    try:
        detail = check.run()
    except VarietError as error:
        took = time.monotonic() - began
        return Row(check.name, "failed", error.message, round(took, 2), error.remedy)
    return Row(check.name, "ok", detail, round(time.monotonic() - began, 2))


def run(role: str, checks: list[Check], as_json: bool) -> int:
    """Perform the checks, one after the other; the exit status: 1 if any of them failed."""
    console = Console(quiet=as_json)
    width = max(len(check.name) for check in checks) + 2
    rows = []
    for check in checks:
        row = perform(check)
        rows.append(row)
        _print(console, row, width)
    bad = [row.name for row in rows if row.status == "failed"]
    if as_json:
        report = {
            "role": role,
            "status": "failed" if bad else "ok",
            "rows": list(map(asdict, rows)),
        }
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    total = sum(row.seconds for row in rows)
    if bad:
        line(console, f"{role}: {len(bad)} of {len(rows)} failed: {', '.join(bad)}", "bold red")
    else:
        line(console, f"{role}: all is well ({total:.1f} s)", "bold green")
    return int(bool(bad))


def _print(console: Console, row: Row, width: int) -> None:
    seconds = "" if row.status == "off" else f"{row.seconds:.1f} s"
    line(console, f"{row.name:<{width}}", "bold", end="")
    line(console, f"{row.status:<8}", STYLES[row.status], end="")
    line(console, f"{seconds:>8}  ", "dim", end="")
    line(console, exact(row.detail))
    if row.remedy:
        line(console, f"{'':<{width}}{'':<18}{exact(row.remedy)}", "yellow")
