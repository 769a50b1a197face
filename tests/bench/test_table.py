import json
from pathlib import Path

import pytest

from tests.bench.table import Row, against, at_most, p95, show, write


def test_a_row_compares_medians() -> None:
    row = against("turn", "ms", [1.0, 30.0, 3.0], [2.0, 2.0, 9.0], most=1.5)
    assert (row.value, row.baseline, row.ratio, row.ok) == (3.0, 2.0, 1.5, True)


def test_a_row_over_its_limit_is_said_to_miss_it(capsys: pytest.CaptureFixture[str]) -> None:
    row = at_most("start", "s", 4.0, most=3.0, baseline=2.0)
    assert row.ok is False
    show([row], "runs")
    assert "missed: start: 4.00 s (2.00 times the baseline), target <= 3 s" in (
        capsys.readouterr().out
    )


def test_a_figure_that_this_system_cannot_tell_is_neither_met_nor_missed() -> None:
    assert at_most("memory", "MB", None, most=200).ok is None


def test_a_percentile_needs_twenty_values() -> None:
    assert p95([1.0] * 19) is None
    assert p95([1.0] * 20) == 1.0


def test_the_rows_are_written_as_json(tmp_path: Path) -> None:
    write([Row("a", "ms", 1.23456, 1.0, 1.23456, "ratio <= 1.5", True)], tmp_path / "bench/a.json")
    [row] = json.loads((tmp_path / "bench/a.json").read_text("utf-8"))
    assert {"name", "unit", "value", "baseline", "ratio", "target", "ok"} <= row.keys()
    assert row["value"] == 1.2346
