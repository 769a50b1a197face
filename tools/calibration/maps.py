"""The calibration maps of a folder: found by key, read fresh, checked, changed cell by cell."""

from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path

from contracts.errors import NotFound, Unprocessable
from contracts.tools import Axis, Cell
from tools.calibration.formats import (
    Parsed,
    Span,
    decimals,
    malformed,
    parse_csv,
    parse_json,
    written,
)
from tools.files import read_regular, regular_files

MAX_BYTES = 4 * 1024 * 1024
MAX_CELLS = 100_000
SUFFIXES = frozenset({".csv", ".json"})


@dataclass(frozen=True, slots=True)
class CalibrationMap:
    """A map as its file has it. A curve or series is a table of one row and has one axis.

    `spans` gives, for each cell, the start and end of its text within `text`.
    """

    path: Path
    title: str
    unit: str
    axes: list[Axis]
    table: list[list[Cell]]
    resolution: float
    text: str
    spans: list[list[Span]]

    @property
    def key(self) -> str:
        return self.path.stem

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.table), len(self.table[0])

    def place(self, row: int, column: int) -> str:
        """The breakpoints of a cell with their units: '4000 rpm, 60 %'."""
        indices = (row, column)[-len(self.axes) :]
        return ", ".join(
            f"{axis.values[i]:g} {axis.unit}".strip()
            for axis, i in zip(self.axes, indices, strict=True)
        )

    def with_cells(self, values: dict[tuple[int, int], float]) -> str:
        """The file's text with new cell values, everything else as it was."""
        text = self.text
        for row, column in sorted(values, reverse=True):
            start, end = self.spans[row][column]
            number = written(values[row, column], self._decimals(start, end))
            text = text[:start] + number + text[end:]
        return text

    def _decimals(self, start: int, end: int) -> int:
        old = self.text[start:end]
        return decimals(old) if old not in ("", "null") else decimals(f"{self.resolution:.10g}")


def map_paths(maps_dir: Path) -> dict[str, Path]:
    """The map files by key. Two files of one key are an error."""
    paths: dict[str, Path] = {}
    for path in regular_files(maps_dir, SUFFIXES):
        if path.stem in paths:
            raise Unprocessable(
                "ambiguous_map",
                f"{paths[path.stem].name} and {path.name} have the same key.",
                "Rename or remove one of them.",
            )
        paths[path.stem] = path
    return paths


def load_map(maps_dir: Path, key: str) -> CalibrationMap:
    """Read one map fresh from disk. Raises NotFound that names the nearest keys."""
    paths = map_paths(maps_dir)
    if key in paths:
        return read_map(paths[key])
    near = get_close_matches(key.lower(), paths, n=3, cutoff=0.4)
    hint = f"The nearest keys are {', '.join(near)}." if near else "Call list_maps for the keys."
    raise NotFound("unknown_map", f"There is no map with the key {key!r}.", hint)


def read_map(path: Path) -> CalibrationMap:
    """Read and parse a map file. Raises Unprocessable naming file, line and value at fault."""
    return parse_map(path, read_regular(path, MAX_BYTES))


def parse_map(path: Path, text: str) -> CalibrationMap:
    """Parse a map's text; errors as in `read_map`."""
    parse = parse_csv if path.suffix.lower() == ".csv" else parse_json
    found = parse(text, path.name)
    rows, columns = _checked_shape(found, path.name)
    if len(found.axes) == 2 and len(found.axes[0].values) != rows:
        raise malformed(path.name, 1, f"{rows} rows, {len(found.axes[0].values)} row breakpoints")
    if len(found.axes[-1].values) != columns:
        wrong = f"{columns} columns, {len(found.axes[-1].values)} breakpoints"
        raise malformed(path.name, 1, wrong)
    for axis in found.axes:
        _check_order(axis, path.name)
    return CalibrationMap(
        path=path,
        title=found.title,
        unit=found.unit,
        axes=found.axes,
        table=found.table,
        resolution=found.resolution or _finest_step(text, found.spans),
        text=text,
        spans=found.spans,
    )


def _checked_shape(found: Parsed, file: str) -> tuple[int, int]:
    if not found.table or not found.table[0]:
        raise malformed(file, 1, "the table has no cells")
    rows, columns = len(found.table), len(found.table[0])
    if rows * columns > MAX_CELLS:
        raise malformed(file, 1, f"{rows * columns} cells, the limit is {MAX_CELLS}")
    return rows, columns


def _check_order(axis: Axis, file: str) -> None:
    for before, after in pairwise(axis.values):
        if after <= before:
            raise malformed(
                file, 1, f"axis {axis.name!r} does not rise from {before:g} to {after:g}"
            )


def _finest_step(text: str, spans: list[list[Span]]) -> float:
    cells = (text[start:end] for row in spans for start, end in row)
    places = max((decimals(cell) for cell in cells if cell not in ("", "null")), default=0)
    return float(Decimal(1).scaleb(-places))
