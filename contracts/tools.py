"""Arguments and results of the built-in tools.

The field order of a result is the order in which a model reads it: what an answer needs comes
first, bulk (whole tables, long text) comes last, so that a short context loses bulk first.
"""

from typing import Literal

from pydantic import Field

from contracts.base import Message

Cell = float | None
LogLevel = Literal["debug", "info", "warning", "error", "critical"]
FileOperation = Literal["list", "read", "write", "move", "delete"]
TestStatus = Literal["passed", "failed", "error", "timeout", "not_run"]


class Axis(Message):
    """One axis of a map: its breakpoints, in `unit`."""

    name: str
    unit: str
    values: list[float]


class Anomaly(Message):
    """A cell that its neighbourhood does not explain. `row` and `column` count from 0."""

    row: int
    column: int
    at: str = Field(description="axis breakpoints with units, e.g. '4000 rpm, 60 %'")
    value: float = Field(description="the cell's value, in the map's unit")
    expected: float = Field(description="what the neighbourhood suggests, in the map's unit")
    score: float = Field(description="robust z-score: |value - expected| / (1.4826 MAD)")


class MapTable(Message):
    """A calibration map with its anomalies. A 1-D curve or series is a table of one row."""

    key: str
    unit: str
    shape: list[int] = Field(description="rows, columns")
    anomalies: list[Anomaly]
    title: str
    method: str = Field(description="how anomalies were found, with its threshold")
    axes: list[Axis] = Field(description="row axis first; a 1-D map has one axis, of its columns")
    table: list[list[Cell]]


class MapSummary(Message):
    key: str
    title: str
    unit: str
    shape: list[int]


class BrokenMap(Message):
    key: str
    error: str = Field(description="what is wrong with its file, and where")


class MapList(Message):
    """`broken` is left out when no file is."""

    maps: list[MapSummary]
    broken: list[BrokenMap] | None = Field(None, exclude_if=lambda value: value is None)


class LogLine(Message):
    source: str = Field(description="file:line")
    time: str
    level: str
    text: str


class LogMatches(Message):
    """Matching lines, oldest first. `matched` counts all, `lines` holds the first `limit`."""

    matched: int
    lines: list[LogLine]
    files: list[str] = Field(description="the log files that were searched")


class FileEntry(Message):
    name: str
    kind: Literal["file", "directory", "other"]
    bytes: int


class FileResult(Message):
    """What a file operation did. `entries` for list, `content` for read, `bytes` for write."""

    operation: FileOperation
    path: str
    to: str | None = None
    bytes: int | None = None
    truncated: bool | None = None
    entries: list[FileEntry] | None = None
    content: str | None = None


class CellEdit(Message):
    """One new value for one cell of a map, in the map's unit. `row` and `column` count from 0."""

    map: str
    row: int = Field(ge=0)
    column: int = Field(ge=0)
    value: float


class TestRun(Message):
    """The outcome of a test run. `output` is the end of what the run printed."""

    status: TestStatus
    passed: int = 0
    failed: int = 0
    failures: list[str] = []
    reason: str | None = None
    ms: int = 0
    output: str = ""


class PatchResult(Message):
    applied: bool
    files: list[str]
    undo: str = Field(description="name of the saved state that reverses this patch")
    tests: TestRun


class DocChunk(Message):
    """One retrieved passage; `n` is the number to cite it by."""

    n: int
    source: str
    start_line: int
    end_line: int
    score: float
    text: str


class DocMatches(Message):
    results: list[DocChunk]
