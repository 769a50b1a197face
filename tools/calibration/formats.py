"""Map files: how a calibration map lies on disk, and how its cells are changed there.

A map's key is its file name without the ending. CSV, for tables with two axes:

    # title: Boost pressure target
    # unit: kPa
    # rows: engine speed [rpm]
    # columns: throttle [%]
    rpm : %, 10, 20, 30
    1000, 101, 104, 108
    1500, 101, 106, 112

Without a `rows` line the map has one axis, and each line is `breakpoint, value`. The first line
without `#` is a heading; in a table it carries the column breakpoints. An empty cell has no value.
JSON holds the same: `{"title", "unit", "axes": [{"name", "unit", "values"}], "table"}`, the row
axis first, `null` for an empty cell. Both may state a `resolution`, the step of the values; else it
is the last decimal place in use.

A parsed map remembers where in the text each cell stands, so that an edit changes those characters
and nothing else.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from math import isfinite
from typing import Any

from contracts.errors import Unprocessable
from contracts.tools import Axis, Cell

Span = tuple[int, int]

HEADER = re.compile(r"#\s*(?P<key>[a-z]+)\s*:\s*(?P<value>.*?)\s*$")
AXIS = re.compile(r"(?P<name>[^\[\]]+?)\s*\[(?P<unit>[^\[\]]*)\]$")
HEADER_KEYS = frozenset({"title", "unit", "rows", "columns", "resolution"})
DECODER = json.JSONDecoder()
SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(slots=True)
class Parsed:
    """What a file says, before the check that it fits together. `spans` as in CalibrationMap."""

    title: str
    unit: str
    resolution: float | None
    axes: list[Axis]
    table: list[list[Cell]]
    spans: list[list[Span]]


def parse_csv(text: str, file: str) -> Parsed:
    """Read a CSV map; see `maps` for the format."""
    header: dict[str, str] = {}
    heading: list[str] | None = None
    breakpoints: list[float] = []
    table: list[list[Cell]] = []
    spans: list[list[Span]] = []
    for line_number, start, line in _lines(text):
        if line.startswith("#"):
            _read_header(line, header, file, line_number)
            continue
        if not line.strip():
            continue
        fields = list(_fields(line, start))
        if heading is None:
            heading = [field for field, _ in fields]
            continue
        if len(fields) != len(heading):
            raise malformed(file, line_number, f"{len(fields)} fields, expected {len(heading)}")
        breakpoints.append(number(fields[0][0], file, line_number, "breakpoint"))
        table.append([_cell(field, file, line_number) for field, _ in fields[1:]])
        spans.append([span for _, span in fields[1:]])
    for key in ("title", "unit", "columns"):
        if key not in header:
            raise malformed(file, 1, f"there is no '# {key}: …' line")
    columns = _axis(header["columns"], file)
    if "rows" not in header:
        if heading is not None and len(heading) != 2:
            raise malformed(file, 1, f"a map without rows has 2 fields a line, not {len(heading)}")
        columns = columns.model_copy(update={"values": breakpoints})
        table = [[cell for row in table for cell in row]]
        spans = [[span for row in spans for span in row]]
        axes = [columns]
    else:
        values = [number(field, file, 1, "column breakpoint") for field in (heading or [""])[1:]]
        rows = _axis(header["rows"], file).model_copy(update={"values": breakpoints})
        axes = [rows, columns.model_copy(update={"values": values})]
    return Parsed(
        title=header["title"],
        unit=header["unit"],
        resolution=_resolution(header.get("resolution"), file),
        axes=axes,
        table=table,
        spans=spans,
    )


def parse_json(text: str, file: str) -> Parsed:
    """Read a JSON map; see `maps` for the format."""
    try:
        body = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
        json.dumps(body, ensure_ascii=False).encode()  # fails on half a surrogate pair
    except json.JSONDecodeError as error:
        raise malformed(file, error.lineno, error.msg) from error
    except (ValueError, RecursionError) as error:
        raise malformed(file, 1, str(error)) from error
    if not isinstance(body, dict):
        raise malformed(file, 1, "the file does not hold an object")
    for key, kind in (("title", str), ("unit", str), ("axes", list), ("table", list)):
        if not isinstance(body.get(key), kind):
            raise malformed(file, 1, f"{key!r} is {body.get(key)!r:.60}, not a {kind.__name__}")
    spans = _table_spans(text)
    if any(isinstance(row, list) for row in body["table"]):
        widths = {len(row) if isinstance(row, list) else -1 for row in body["table"]}
        if len(widths) != 1 or -1 in widths:
            raise malformed(file, _line(text, spans[0][0][0]), "rows differ in length")
    table = [[_json_cell(text, start, end, file) for start, end in row] for row in spans]
    axes = [_json_axis(axis, file) for axis in body["axes"]]
    if len(axes) not in (1, 2) or (len(axes) == 1 and len(table) > 1):
        raise malformed(file, 1, f"{len(axes)} axes for a table of {len(table)} rows")
    resolution = body.get("resolution")
    return Parsed(
        title=body["title"],
        unit=body["unit"],
        resolution=_resolution(None if resolution is None else str(resolution), file),
        axes=axes,
        table=table,
        spans=spans,
    )


def number(text: str, file: str, line: int, what: str) -> float:
    """A finite number, or Unprocessable naming file, line and value."""
    try:
        value = float(text)
    except ValueError as error:
        raise malformed(file, line, f"{what} {text!r} is not a number") from error
    if not isfinite(value) or "_" in text:
        raise malformed(file, line, f"{what} {text!r} is not a finite number")
    return value


def malformed(file: str, line: int, why: str) -> Unprocessable:
    return Unprocessable(
        "malformed_map", f"{file}, line {line}: {why}.", "Correct the file; see its format."
    )


def decimals(text: str) -> int:
    """Decimal places in a written number: 2 for '0.85', 0 for '12' and '1e3'."""
    exponent = Decimal(text).as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def written(value: float, places: int) -> str:
    """A number with at least `places` decimals, more only if it has more."""
    exact = Decimal(repr(value))
    return f"{exact:.{max(places, decimals(f'{exact.normalize():f}'))}f}"


def rounded(value: float, step: float) -> float:
    """The nearest multiple of `step`, without binary dust."""
    unit = Decimal(repr(step))
    return float((Decimal(repr(value)) / unit).quantize(Decimal(1)) * unit)


def _lines(text: str) -> Iterator[tuple[int, int, str]]:
    start = 0
    for line_number, line in enumerate(text.splitlines(keepends=True), 1):
        yield line_number, start, line.rstrip("\r\n").removeprefix("\ufeff")
        start += len(line)


def _fields(line: str, start: int) -> Iterator[tuple[str, Span]]:
    for field in line.split(","):
        lead = len(field) - len(field.lstrip())
        text = field.strip()
        yield text, (start + lead, start + lead + len(text))
        start += len(field) + 1


def _read_header(line: str, header: dict[str, str], file: str, line_number: int) -> None:
    found = HEADER.match(line)
    if found is None:
        return
    key = found["key"]
    if key in header:
        raise malformed(file, line_number, f"a second {key!r}")
    if key in HEADER_KEYS:
        header[key] = found["value"]


def _axis(text: str, file: str) -> Axis:
    found = AXIS.match(text)
    if found is None:
        raise malformed(file, 1, f"axis {text!r} is not of the form 'name [unit]'")
    return Axis(name=found["name"], unit=found["unit"], values=[])


def _cell(field: str, file: str, line_number: int) -> Cell:
    return number(field, file, line_number, "cell") if field else None


def _resolution(text: str | None, file: str) -> float | None:
    if text is None:
        return None
    value = number(text, file, 1, "resolution")
    if value <= 0:
        raise malformed(file, 1, f"resolution {text} is not positive")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"the key {key!r} stands there twice")
    return dict(pairs)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a number")


def _json_axis(axis: Any, file: str) -> Axis:
    if not isinstance(axis, dict) or not isinstance(axis.get("values"), list):
        raise malformed(file, 1, f"axis {axis!r:.60} has no list of values")
    values = [number(json.dumps(value), file, 1, "breakpoint") for value in axis["values"]]
    return Axis(name=str(axis.get("name", "")), unit=str(axis.get("unit", "")), values=values)


def _json_cell(text: str, start: int, end: int, file: str) -> Cell:
    if text[start:end] == "null":
        return None
    return number(text[start:end], file, _line(text, start), "cell")


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _table_spans(text: str) -> list[list[Span]]:
    """Where each cell of the key `table` stands, in a text that is known to be valid JSON."""
    position = _after_space(text, text.index("{") + 1)
    while True:
        key, position = DECODER.raw_decode(text, position)
        position = _after_space(text, _after_space(text, position) + 1)
        if key == "table":
            return _array_spans(text, position)
        _, position = DECODER.raw_decode(text, position)
        position = _after_space(text, _after_space(text, position) + 1)


def _array_spans(text: str, position: int) -> list[list[Span]]:
    rows: list[list[Span]] = []
    flat: list[Span] = []
    position = _after_space(text, position + 1)
    while text[position] != "]":
        if text[position] == "[":
            row, position = _row_spans(text, position)
            rows.append(row)
        else:
            start = position
            _, position = DECODER.raw_decode(text, position)
            flat.append((start, position))
        position = _after_comma(text, position)
    return rows or [flat]


def _row_spans(text: str, position: int) -> tuple[list[Span], int]:
    row: list[Span] = []
    position = _after_space(text, position + 1)
    while text[position] != "]":
        start = position
        _, position = DECODER.raw_decode(text, position)
        row.append((start, position))
        position = _after_comma(text, position)
    return row, position + 1


def _after_space(text: str, position: int) -> int:
    found = SPACE.match(text, position)
    return found.end() if found else position


def _after_comma(text: str, position: int) -> int:
    position = _after_space(text, position)
    return _after_space(text, position + 1) if text[position] == "," else position
