"""What the benchmark measured: a row per figure, as a table and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `ratio` says how many times the baseline's cost Variet's is, whichever way the
    unit runs; `target` is in words, `ok` None without one."""

    name: str
    unit: str
    value: float | None
    baseline: float | None = None
    ratio: float | None = None
    target: str | None = None
    ok: bool | None = None
    p95: float | None = None
    baseline_p95: float | None = None


def against(
    name: str, unit: str, ours: Sequence[float], theirs: Sequence[float], most: float
) -> Row:
    """A row of medians. `most` is the highest ratio of the medians that meets the target."""
    value, baseline = median(ours), median(theirs)
    ratio = value / baseline
    return Row(
        name, unit, value, baseline, ratio, f"ratio <= {most:g}", ratio <= most, p95(ours),
        p95(theirs),
    )  # fmt: skip


def at_most(
    name: str, unit: str, value: float | None, most: float, baseline: float | None = None
) -> Row:
    """A row with a limit in its own unit."""
    ok = None if value is None else value <= most
    ratio = value / baseline if value is not None and baseline else None
    return Row(name, unit, value, baseline, ratio, f"<= {most:g} {unit}", ok)


def p95(values: Sequence[float]) -> float | None:
    """The 95th percentile, or None for fewer than 20 values."""
    return quantiles(values, n=20)[-1] if len(values) >= 20 else None


def show(rows: Sequence[Row], title: str) -> None:
    table = Table(title=title)
    for column in ("figure", "unit", "Variet", "p95", "baseline", "p95", "ratio", "target", ""):
        table.add_column(column, justify="left" if column in ("figure", "target") else "right")
    for row in rows:
        verdict = {True: "ok", False: "MISSED", None: ""}[row.ok]
        table.add_row(
            row.name, row.unit, _text(row.value), _text(row.p95), _text(row.baseline),
            _text(row.baseline_p95), _text(row.ratio), row.target or "", verdict,
        )  # fmt: skip
    console = Console()
    console.width = max(console.width, 110)
    console.print(table)
    for row in rows:
        if row.ok is False:
            print(f"missed: {row.name}: {_said(row)}, target {row.target}")


def write(rows: Sequence[Row], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rounded = [
        {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(row).items()}
        for row in rows
    ]
    path.write_text(json.dumps(rounded, indent=1) + "\n", "utf-8")


def _said(row: Row) -> str:
    said = f"{_text(row.value)} {row.unit}"
    return f"{said} ({row.ratio:.2f} times the baseline)" if row.ratio else said


def _text(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"
