"""Random spikes in random smooth tables: how many are found, and how much else is reported."""

import math
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from contracts.tools import Axis
from tools.calibration.anomalies import (
    Table,
    curve_predictions,
    find_anomalies,
    search,
    table_predictions,
)
from tools.calibration.maps import CalibrationMap

Surface = Callable[[float, float], float]
SCALES = [(100.0, 130.0, 1.0), (10.0, 30.0, 0.5), (0.8, 0.2, 0.01), (50.0, 45.0, 0.1)]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, x))))


def surfaces(r: Random) -> dict[str, Surface]:
    """The shapes of real maps: slopes, saturation, products, knees, hills."""
    a, b, c = (r.uniform(0.2, 0.8) for _ in range(3))
    u, v = r.uniform(0.1, 0.4), r.uniform(0.1, 0.4)
    return {
        "slope": lambda x, y: x * (1 + a) + y * c,
        "saturation": lambda x, y: sigmoid((x - a) / u) + b * sigmoid((c - y) / v),
        "product": lambda x, y: sigmoid((x - a) / u) * y ** (1 + c),
        "knee": lambda x, y: max(0.0, x - a) * 1.5 - max(0.0, y - b),
        "hill": lambda x, y: math.exp(-(((x - a) / u / 2) ** 2) - ((y - b) / v / 2) ** 2) + 0.3 * x,
    }


def smooth_table(r: Random, kind: str) -> tuple[Table, float, float]:
    """A table without anomalies, its resolution and its range."""
    surface = surfaces(r)[kind]
    offset, scale, step = r.choice(SCALES)
    rows, columns = r.randint(8, 14), r.randint(8, 14)
    raw = [
        [surface(i / (rows - 1), j / (columns - 1)) for j in range(columns)] for i in range(rows)
    ]
    low, high = min(map(min, raw)), max(map(max, raw))
    table: Table = [
        [round((offset + scale * (cell - low) / (high - low)) / step) * step for cell in row]
        for row in raw
    ]
    return table, step, scale


def found_in(table: Table, step: float) -> dict[tuple[int, int], tuple[float, float]]:
    rows, columns = ([float(k) for k in range(n)] for n in (len(table), len(table[0])))
    return search(table, table_predictions(rows, columns), step)


KINDS = ["slope", "saturation", "product", "knee", "hill"]


@pytest.mark.parametrize("kind", KINDS)
def test_smooth_tables_have_no_anomalies(kind: str) -> None:
    r = Random(f"clean {kind}")
    reported = sum(bool(found_in(table, step)) for table, step, _ in _tables(r, kind, 25))
    assert reported <= 1


def test_spikes_are_found_and_little_else() -> None:
    r = Random(20)
    hits = planted = reported = 0
    errors = []
    for kind in KINDS:
        for table, step, scale in _tables(r, kind, 16):
            clean = [row[:] for row in table]
            places = plant(r, table, step, scale)
            found = found_in(table, step)
            hits += len(places & found.keys())
            planted += len(places)
            reported += len(found)
            for i, j in places & found.keys():
                value = clean[i][j]
                assert value is not None
                errors.append(abs(found[i, j][0] - value) / scale)
    assert hits / planted > 0.95
    assert hits / reported > 0.95
    assert sorted(errors)[len(errors) // 2] < 0.01
    assert sorted(errors)[int(0.95 * len(errors))] < 0.04


def test_spikes_in_a_noisy_series_are_found() -> None:
    r = Random(4)
    hits = reported = 0
    for _ in range(20):
        count = r.randint(80, 160)
        series: list[float | None] = [
            round(100 * sigmoid((k / count - 0.5) / 0.15) + r.gauss(0, 1.5), 1)
            for k in range(count)
        ]
        place = r.randrange(count)
        series[place] = (series[place] or 0.0) + r.choice([-1, 1]) * r.uniform(20, 50)
        axis = [k * 0.1 for k in range(count)]
        found = search([series], curve_predictions(axis, along_columns=True), 0.1)
        hits += (0, place) in found
        reported += len(found)
    assert hits >= 19
    assert reported <= hits + 3


def test_missing_cells_are_neither_reported_nor_needed() -> None:
    table: Table = [[10.0 * i + j for j in range(8)] for i in range(8)]
    table[2][2] = table[2][3] = table[5][0] = None
    table[4][4] = 90.0
    assert list(found_in(table, 1.0)) == [(4, 4)]
    assert found_in(table, 1.0)[4, 4][0] == pytest.approx(44)


def test_a_constant_table_has_no_anomalies() -> None:
    assert found_in([[5.0] * 9 for _ in range(9)], 0.1) == {}


def test_a_table_of_missing_cells_has_no_anomalies() -> None:
    assert found_in([[None] * 5 for _ in range(5)], 1.0) == {}


def test_the_only_different_cell_of_a_constant_table_is_found() -> None:
    table: Table = [[5.0] * 9 for _ in range(9)]
    table[0][0] = 9.0
    assert found_in(table, 0.1)[0, 0][0] == 5.0


@pytest.mark.parametrize(("rows", "columns"), [(1, 6), (2, 5), (3, 4), (4, 4)])
def test_a_spike_is_found_wherever_a_small_table_has_it(rows: int, columns: int) -> None:
    for i in range(rows):
        for j in range(columns):
            table: Table = [[100.0 + 7 * r + 12 * c for c in range(columns)] for r in range(rows)]
            table[i][j] = 300.0
            found, _ = find_anomalies(calibration_map(table))
            assert [(spike.row, spike.column) for spike in found] == [(i, j)]


@pytest.mark.parametrize(("rows", "columns"), [(1, 4), (2, 2), (2, 4), (3, 3)])
def test_a_table_too_small_to_judge_is_said_to_be_so(rows: int, columns: int) -> None:
    table: Table = [[1.0] * columns for _ in range(rows)]
    table[0][0] = 100.0
    assert find_anomalies(calibration_map(table)) == ([], "not analysed: too few cells")


@pytest.mark.parametrize(
    ("name", "surface"),
    [
        ("a step between columns", lambda i, j: 0 if j < 5 else 100),
        ("a raised quarter", lambda i, j: 100 if i < 6 and j < 5 else 0),
        ("a limit", lambda i, j: min(3 * i * j, 90)),
        ("a ridge along a row", lambda i, j: 100 * math.exp(-((i - 5) ** 2))),
        ("a ridge across", lambda i, j: 100 * math.exp(-(((j - 0.8 * i) / 1.5) ** 2))),
        ("a peak", lambda i, j: 100 * math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / 4)),
        ("whole numbers", lambda i, j: (i + j) % 2),
    ],
)
def test_steep_but_lawful_shapes_are_no_anomalies(name: str, surface: Surface) -> None:
    assert found_in([[round(surface(i, j)) for j in range(10)] for i in range(12)], 1.0) == {}


def test_two_spikes_side_by_side_are_both_found() -> None:
    table: Table = [[100 + 3.0 * i + 2 * j for j in range(10)] for i in range(10)]
    table[5][5] = 190.0
    table[5][6] = 60.0
    assert found_in(table, 1.0).keys() == {(5, 5), (5, 6)}


def test_uneven_breakpoints_do_not_make_anomalies() -> None:
    rows = [500.0, 750, 1000, 2000, 4000, 8000]
    columns = [5.0, 10, 20, 60, 80, 100]
    table: Table = [[round(x * y / 1000) for y in columns] for x in rows]
    assert search(table, table_predictions(rows, columns), 1.0) == {}


def calibration_map(table: Table) -> CalibrationMap:
    rows, columns = ([float(k) for k in range(n)] for n in (len(table), len(table[0])))
    axes = [Axis(name="x", unit="", values=columns)]
    if len(table) > 1:
        axes.insert(0, Axis(name="y", unit="", values=rows))
    return CalibrationMap(Path("a.csv"), "", "", axes, table, 1.0, "", [])


def plant(r: Random, table: Table, step: float, scale: float) -> set[tuple[int, int]]:
    """Add one or two spikes of 15 to 50 % of the range; returns where."""
    places = {(r.randrange(len(table)), r.randrange(len(table[0]))) for _ in range(r.randint(1, 2))}
    for i, j in places:
        spike = r.choice([-1, 1]) * r.uniform(0.15, 0.5) * scale
        table[i][j] = round(((table[i][j] or 0.0) + spike) / step) * step
    return places


def _tables(r: Random, kind: str, count: int) -> list[tuple[Table, float, float]]:
    return [smooth_table(r, kind) for _ in range(count)]
