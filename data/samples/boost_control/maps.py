"""Reading a calibration table and looking values up in it."""

from bisect import bisect_right
from pathlib import Path


class Table:
    """A table over two axes, interpolated between its breakpoints and held beyond them."""

    def __init__(self, rows: list[float], columns: list[float], cells: list[list[float]]) -> None:
        self.rows, self.columns, self.cells = rows, columns, cells

    @classmethod
    def read(cls, path: Path) -> "Table":
        lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
        fields = [[field.strip() for field in line.split(",")] for line in lines]
        columns = [float(field) for field in fields[0][1:]]
        rows = [float(line[0]) for line in fields[1:]]
        return cls(rows, columns, [[float(cell) for cell in line[1:]] for line in fields[1:]])

    def at(self, row: float, column: float) -> float:
        i, u = _position(self.rows, row)
        j, v = _position(self.columns, column)
        low = self.cells[i][j] * (1 - v) + self.cells[i][j + 1] * v
        high = self.cells[i + 1][j] * (1 - v) + self.cells[i + 1][j + 1] * v
        return low * (1 - u) + high * u


def _position(axis: list[float], value: float) -> tuple[int, float]:
    value = max(axis[0], min(axis[-1], value))
    i = min(bisect_right(axis, value) - 1, len(axis) - 2)
    return i, (value - axis[i]) / (axis[i + 1] - axis[i])
