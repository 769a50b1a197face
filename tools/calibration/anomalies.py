"""Which cells of a map their neighbourhood does not explain.

Each cell is predicted from its neighbours many times over. In a table, every rectangle with the
cell in one corner gives a prediction: the two corners beside it, less the one across. That is exact
wherever the surface is a row effect plus a column effect, so slopes, knees and edges are explained
(Tukey, Exploratory Data Analysis, 1977, ch. 10-11: additive fit by medians; here in a window). On a
curve, every line through two neighbours gives one (Theil 1950, Sen 1968).

`expected` is the median of the predictions. The residual is measured against the largest of three
scales: how much the predictions disagree (1.4826 MAD, so that a rough neighbourhood is not reported
for being rough), the 1.4826 MAD of the map's residuals (Hampel 1974), and the map's resolution or
1 % of its range. Reported is what exceeds 3.5 of them (Iglewicz and Hoaglin, How to Detect and
Handle Outliers, 1993). The worst cell of a neighbourhood is left out and the search repeats, so
that an outlier neither hides another nor accuses its neighbours. A cell that equals two of those
beside it is none.

What it cannot see: of three wrong cells side by side, or a whole wrong row, most of the window
agrees with them. They pass for the surface, and at the map's edge their neighbours may be reported
in their place.
"""

from collections.abc import Callable
from itertools import combinations

from contracts.tools import Anomaly, Cell
from tools.calibration.formats import rounded
from tools.calibration.maps import CalibrationMap

THRESHOLD = 3.5
MAD_TO_SIGMA = 1.4826  # the MAD of normal data times this is its standard deviation
TABLE_WINDOW = 5  # cells per axis, moved inward at the edges
CURVE_WINDOW = 7
RANGE_FRACTION = 0.01  # of the map's range: the least scale, so that dust is not reported
MIN_PREDICTIONS = 3
MIN_TABLE_CELLS = 12  # in a table of 3 x 3 an outlier spoils the prediction of every other cell
MAX_SHARE = 0.1
MAX_ROUNDS = 6

TABLE_METHOD = (
    "median of predictions from the rows and columns of the 5 x 5 neighbourhood,"
    " residual over 1.4826 MAD, threshold 3.5 (Iglewicz and Hoaglin 1993)"
)
CURVE_METHOD = (
    "median of lines through pairs of the 6 nearest points, residual over 1.4826 MAD,"
    " threshold 3.5 (Iglewicz and Hoaglin 1993)"
)
NO_METHOD = "not analysed: too few cells"

Place = tuple[int, int]
Table = list[list[Cell]]
Predict = Callable[[Table, int, int], list[float]]
Finding = tuple[float, float]  # expected, score
Line = tuple[int, int, float]  # two places, and a weight: 0 at the first, 1 at the second


def find_anomalies(subject: CalibrationMap) -> tuple[list[Anomaly], str]:
    """The anomalies of a map in table order, and the method by which they were found."""
    rows, columns = subject.shape
    first, last = subject.axes[0].values, subject.axes[-1].values
    if min(rows, columns) >= 3 and rows * columns >= MIN_TABLE_CELLS:
        predict, method = table_predictions(first, last), TABLE_METHOD
    elif max(rows, columns) >= 5:
        along_columns = columns >= rows
        predict = curve_predictions(last if along_columns else first, along_columns)
        method = CURVE_METHOD
    else:
        return [], NO_METHOD
    found = search(subject.table, predict, subject.resolution)
    return [_anomaly(subject, place, found[place]) for place in sorted(found)], method


def search(table: Table, predict: Predict, resolution: float) -> dict[Place, Finding]:
    """Expected value and score of each outlier, by row and column."""
    cells = {(i, j): v for i, row in enumerate(table) for j, v in enumerate(row) if v is not None}
    if not cells:
        return {}
    coarseness = max(resolution, RANGE_FRACTION * (max(cells.values()) - min(cells.values())))
    found: set[Place] = set()
    for _ in range(MAX_ROUNDS):
        rest = [row[:] for row in table]
        for i, j in found:
            rest[i][j] = None
        scores = _score(rest, cells, predict, coarseness)
        found = {place for place in found if scores[place][1] > THRESHOLD}
        fresh = {
            place
            for place, (_, score) in scores.items()
            if score > THRESHOLD and place not in found and not _is_level(cells, place)
        }
        if not fresh or len(found) >= MAX_SHARE * len(cells):
            break
        found |= {place for place in fresh if _is_worst_nearby(place, fresh, scores)}
    return {place: scores[place] for place in found}


def table_predictions(row_axis: list[float], column_axis: list[float]) -> Predict:
    """Predictions from the rows and columns of a cell's neighbourhood."""
    row_windows = _windows(len(row_axis), TABLE_WINDOW)
    column_windows = _windows(len(column_axis), TABLE_WINDOW)
    row_lines = _lines(row_axis, row_windows)
    column_lines = _lines(column_axis, column_windows)

    def predict(table: Table, row: int, column: int) -> list[float]:
        predictions: list[float] = []
        for i in row_windows[row]:
            predictions += _carried(table[row], table[i], column, column_lines[column])
        own = [cells[column] for cells in table]
        for j in column_windows[column]:
            predictions += _carried(own, [cells[j] for cells in table], row, row_lines[row])
        return predictions

    return predict


def curve_predictions(axis: list[float], along_columns: bool) -> Predict:
    """Predictions along the longer side of a table by lines through pairs of neighbours."""
    lines = _lines(axis, _windows(len(axis), CURVE_WINDOW))
    nothing: list[Cell] = [0.0] * len(axis)

    def predict(table: Table, row: int, column: int) -> list[float]:
        if along_columns:
            return _carried(table[row], nothing, column, lines[column])
        return _carried([cells[column] for cells in table], nothing, row, lines[row])

    return predict


def _carried(own: list[Cell], other: list[Cell], place: int, lines: list[Line]) -> list[float]:
    """`other[place]` plus the difference of the two, carried there by each line."""
    base = other[place]
    if base is None:
        return []
    predictions = []
    for a, b, weight in lines:
        own_a, own_b, other_a, other_b = own[a], own[b], other[a], other[b]
        if own_a is None or own_b is None or other_a is None or other_b is None:
            continue
        start = own_a - other_a
        predictions.append(base + start + (own_b - other_b - start) * weight)
    return predictions


def _windows(length: int, size: int) -> list[list[int]]:
    """For each place the neighbours in a window of `size`, which moves inward at the ends."""
    starts = [max(0, min(k - size // 2, length - size)) for k in range(length)]
    return [
        [k for k in range(start, min(start + size, length)) if k != place]
        for place, start in enumerate(starts)
    ]


def _lines(axis: list[float], windows: list[list[int]]) -> list[list[Line]]:
    """For each place the pairs (a, b) of neighbours and how far along their line it lies."""
    return [
        [(a, b, (x - axis[a]) / (axis[b] - axis[a])) for a, b in combinations(window, 2)]
        for x, window in zip(axis, windows, strict=True)
    ]


def _score(
    table: Table, cells: dict[Place, float], predict: Predict, coarseness: float
) -> dict[Place, Finding]:
    """Expected value and score of every cell, predicted from the cells that `table` still has."""
    predicted: dict[Place, tuple[float, float]] = {}
    residuals = []
    for (i, j), value in cells.items():
        predictions = sorted(predict(table, i, j))
        if len(predictions) < MIN_PREDICTIONS:
            predicted[i, j] = value, 0.0
            continue
        expected = _middle(predictions)
        spread = _middle(sorted(abs(p - expected) for p in predictions))
        predicted[i, j] = expected, spread
        if table[i][j] is not None:
            residuals.append(abs(value - expected))
    usual = _middle(sorted(residuals)) if residuals else 0.0
    return {
        place: (
            expected,
            abs(cells[place] - expected) / max(MAD_TO_SIGMA * max(spread, usual), coarseness),
        )
        for place, (expected, spread) in predicted.items()
    }


def _is_level(cells: dict[Place, float], place: Place) -> bool:
    """Whether two of the cells beside it have the same value: so begins the part of a map that a
    limit has cut off, which no slope predicts."""
    i, j = place
    beside = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
    return [cells.get(other) for other in beside].count(cells[place]) >= 2


def _is_worst_nearby(place: Place, fresh: set[Place], scores: dict[Place, Finding]) -> bool:
    """Whether no other candidate in the window scores higher: an outlier makes its neighbours
    look wrong too, so the worst goes first."""
    reach = TABLE_WINDOW // 2
    return all(
        scores[other][1] <= scores[place][1]
        for other in fresh
        if abs(other[0] - place[0]) <= reach and abs(other[1] - place[1]) <= reach
    )


def _middle(ordered: list[float]) -> float:
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _anomaly(subject: CalibrationMap, place: Place, finding: Finding) -> Anomaly:
    row, column = place
    expected, score = finding
    value = subject.table[row][column]
    assert value is not None
    return Anomaly(
        row=row,
        column=column,
        at=subject.place(row, column),
        value=value,
        expected=rounded(expected, subject.resolution),
        score=round(score, 1),
    )
