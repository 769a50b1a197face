"""What a patch or a list of cell edits would change, found out before anything is changed."""

from math import isfinite
from pathlib import Path

from contracts.errors import BadRequest, Conflict, Unprocessable
from contracts.tools import CellEdit
from tools.calibration.maps import CalibrationMap, load_map, parse_map
from tools.workspace.changes import Change, read_bytes
from tools.workspace.diff import FilePatch, apply_hunks, parse_patch
from tools.workspace.paths import (
    Place,
    check_text,
    check_writable,
    not_a_file,
    shown,
    split_names,
)


def plan_patch(repo: Place, text: str) -> list[Change]:
    """The changes that a unified diff makes below `repo`. Raises for the first that cannot be."""
    changes = [_plan_file(repo, patch) for patch in parse_patch(text)]
    return [change for change in changes if change.before != change.after]


def plan_cells(maps_dir: Path, edits: list[CellEdit]) -> list[Change]:
    """The changes that new cell values make to map files. Raises naming the map and the cell."""
    values: dict[str, dict[tuple[int, int], float]] = {}
    maps: dict[str, CalibrationMap] = {}
    for edit in edits:
        if edit.map not in maps:
            maps[edit.map] = load_map(maps_dir, edit.map)
        _check_cell(maps[edit.map], edit)
        cells = values.setdefault(edit.map, {})
        if (edit.row, edit.column) in cells:
            raise _bad_cell(edit, "is given twice")
        cells[edit.row, edit.column] = edit.value
    changes = []
    for key, cells in values.items():
        subject = maps[key]
        text = subject.with_cells(cells)
        parse_map(subject.path, text)
        place = Place(maps_dir.absolute(), (subject.path.name,))
        if text != subject.text:
            changes.append(Change(place, subject.text.encode(), text.encode()))
    return changes


def _plan_file(repo: Place, patch: FilePatch) -> Change:
    check_text(patch.path)
    if patch.path.startswith("/"):
        raise BadRequest(
            "bad_path",
            f"The patch names the absolute path {shown(patch.path)}.",
            "Name files relative to the repository.",
        )
    place = repo / Place(repo.root, split_names(patch.path))
    check_writable(place)
    before = read_bytes(place)
    if before is None and not patch.creates:
        raise not_a_file(place, None)
    if patch.creates:
        if before is not None:
            raise Conflict("exists", f"{shown(str(place))} exists already.", "Patch its text.")
        return Change(place, None, apply_hunks(patch, "").encode())
    text = _text(place, before or b"")
    after = apply_hunks(patch, text)
    if patch.deletes:
        if after:
            raise Unprocessable(
                "context_mismatch",
                f"{shown(str(place))} has more lines than the patch deletes.",
                "Read the file, or delete it with file_operations.",
            )
        return Change(place, before, None)
    return Change(place, before, after.encode())


def _text(place: Place, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unprocessable(
            "binary_file",
            f"{shown(str(place))} is not UTF-8 text (byte {error.start}).",
            "Only text is patched.",
        ) from error


def _check_cell(subject: CalibrationMap, edit: CellEdit) -> None:
    rows, columns = subject.shape
    if edit.row >= rows:
        raise _bad_cell(edit, f"is outside: rows are 0 to {rows - 1}")
    if edit.column >= columns:
        raise _bad_cell(edit, f"is outside: columns are 0 to {columns - 1}")
    if not isfinite(edit.value):
        raise _bad_cell(edit, f"cannot be {edit.value}")


def _bad_cell(edit: CellEdit, why: str) -> Unprocessable:
    return Unprocessable(
        "bad_cell",
        f"{edit.map}: the cell at row {edit.row}, column {edit.column} {why}.",
        "Rows and columns count from 0; call get_map for the shape.",
    )
