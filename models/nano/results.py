"""Random tool results, of the models that the tools themselves return."""

from random import Random

from contracts.tools import (
    Anomaly,
    Axis,
    DocChunk,
    DocMatches,
    FileEntry,
    FileResult,
    LogLine,
    LogMatches,
    MapList,
    MapSummary,
    MapTable,
    PatchResult,
    TestRun,
)  # fmt: skip
from models.nano import english
from models.nano import words as w
from models.nano.phrases import phrases
from models.nano.prose import log_text, passage

METHODS = phrases("methods")


def map_table(r: Random, key: str) -> MapTable:
    """A map with none to six anomalies. The last fields are bulk that a short context loses."""
    rows = 1 if r.random() < 0.25 else r.randint(3, 20)
    columns = r.randint(4, 24)
    decimals = w.decimals(r)
    low = r.choice([-40, -10, 0, 0, 0, 5, 50])
    high = low + r.choice([1, 5, 20, 60, 250, 900, 6000])
    cells = [[w.number(r, decimals, low, high) for _ in range(columns)] for _ in range(rows)]
    axes = [_axis(r, rows), _axis(r, columns)] if rows > 1 else [_axis(r, columns)]
    count = min(r.choices(range(7), [5, 7, 5, 3, 2, 1, 1])[0], rows * columns)
    places = sorted(r.sample([(i, j) for i in range(rows) for j in range(columns)], count))
    anomalies = [_anomaly(r, cells, axes, i, j, decimals) for i, j in places]
    return MapTable(
        key=key,
        unit=r.choice(w.UNITS),
        shape=[rows, columns],
        anomalies=anomalies,
        title=_title(r, key),
        method=r.choice(METHODS),
        axes=axes,
        table=[list(row) for row in cells],
    )


def _axis(r: Random, size: int) -> Axis:
    name, unit = r.choice(w.AXES)
    step = r.choice([0.5, 1, 5, 10, 25, 100, 250, 500])
    start = r.choice([-40, 0, 0, 1, 10, 500, 800])
    return Axis(name=name, unit=unit, values=[start + step * i for i in range(size)])


def _anomaly(
    r: Random, cells: list[list[float]], axes: list[Axis], i: int, j: int, decimals: int
) -> Anomaly:
    value = cells[i][j]
    digits = decimals if r.random() < 0.6 else min(decimals + 1, 3)
    expected = float(f"{round(value * r.uniform(0.2, 1.9) + r.choice([-1, 1]), digits):.6g}")
    at = [
        f"{w.plain(axis.values[k])} {axis.unit}".strip()
        for axis, k in zip(axes, _at(axes, i, j), strict=True)
    ]
    return Anomaly(
        row=i,
        column=j,
        at=", ".join(at),
        value=value,
        expected=expected,
        score=round(r.uniform(3.5, 60), r.choice([1, 1, 2])),
    )


def _at(axes: list[Axis], i: int, j: int) -> list[int]:
    return [i, j] if len(axes) == 2 else [j]


def _title(r: Random, key: str) -> str:
    words = key.replace("_", " ")
    return r.choice(
        [words.capitalize(), words.title(), f"{words.capitalize()} ({w.word(r)})", words]
    )


def map_list(r: Random) -> MapList:
    count = r.choice([0, 1, 2, 3, 4, 5, 6, 8])
    maps = []
    for _ in range(count):
        key = w.identifier(r)
        shape = [r.choice([1, r.randint(3, 20)]), r.randint(4, 24)]
        maps.append(MapSummary(key=key, title=_title(r, key), unit=r.choice(w.UNITS), shape=shape))
    return MapList(maps=maps)


def log_matches(r: Random, query: str | None, level: str | None, file: str | None) -> LogMatches:
    count = r.choices([0, 1, 2, 3, 5], [3, 4, 4, 3, 2])[0]
    name = file or f"{r.choice(w.LOGGERS)}.log"
    lines = []
    for _ in range(count):
        text = log_text(r) if r.random() < 0.65 else " ".join(_filler(r, r.randint(1, 4)))
        if query and r.random() < 0.9:
            text = r.choice(
                [f"{query} {text}", f"{text}: {query}", f"{text} {query} {r.randint(0, 999)}"]
            )
        source = name if file or r.random() < 0.6 else f"{r.choice(w.LOGGERS)}.log"
        source = source.replace(".log", ".jsonl") if not file and r.random() < 0.3 else source
        lines.append(
            LogLine(
                source=f"{source}:{r.randint(1, 4000)}",
                time=w.moment(r),
                level=level or r.choice(["debug", "info", "warning", "error", "critical"]),
                text=text,
            )
        )
    matched = count if count < 3 or r.random() < 0.6 else r.randint(count, 400)
    files = sorted({line.source.split(":")[0] for line in lines} | {name})
    return LogMatches(matched=matched, lines=lines, files=files)


def _filler(r: Random, count: int) -> list[str]:
    kinds = [
        lambda: r.choice(w.TROUBLES),
        lambda: r.choice(w.PARTS),
        lambda: w.word(r),
        lambda: f"{w.word(r)}={w.plain(w.number(r, r.randint(0, 2), 0, 500))}",
        lambda: f"after {r.randint(1, 900)} {r.choice(['ms', 's', 'retries'])}",
        lambda: w.identifier(r),
        lambda: english.phrase(r),
        lambda: (
            f"{r.choice(w.PARTS)}_{r.choice(['kpa', 'rpm', 'v', 'ms', 'id'])}={r.randint(0, 9000)}"
        ),
        lambda: f"{w.topic(r)}:",
        lambda: (
            f"{w.plain(w.number(r, 1, 0, 300))} {r.choice(w.UNITS)}"
            f" at {r.randint(8, 70) * 100} rpm,"
        ),
    ]
    return [r.choice(kinds)() for _ in range(count)]


REASONS = [
    "There is no sandbox to run tests in. Set ALLOW_UNSANDBOXED=1 to run them on this machine.",
    "The patch changes nothing.",
    "tests run only with ALLOW_UNSANDBOXED=1",
    "set ALLOW_UNSANDBOXED=1 to run code without a sandbox",
    "running code without a sandbox is off (ALLOW_UNSANDBOXED=1 allows it)",
]


def test_run(r: Random) -> TestRun:
    status = r.choices(["passed", "failed", "not_run", "timeout", "error"], [4, 4, 3, 1, 1])[0]
    passed, ms = r.randint(0, 140), r.randint(40, 90_000)
    if status == "passed":
        return TestRun(status="passed", passed=passed, ms=ms, output=f"{passed} passed")
    if status == "failed":
        names = [f"{w.file_path(r, 'py')}::test_{w.identifier(r)}" for _ in range(r.randint(1, 3))]
        failed = len(names) if r.random() < 0.8 else r.randint(3, 30)
        names = names if failed <= 3 else names[:3]
        return TestRun(
            status="failed", passed=passed, failed=failed, failures=names, ms=ms,
            output=f"{failed} failed, {passed} passed",
        )  # fmt: skip
    if status == "not_run":
        reason = r.choice(REASONS) if r.random() < 0.6 else " ".join(_filler(r, 4))
        return TestRun(status="not_run", reason=reason)
    if status == "timeout":
        return TestRun(status="timeout", reason=f"no end after {r.randint(1, 600)} s", ms=ms)
    return TestRun(status="error", reason=" ".join(_filler(r, 4)), ms=ms)


def patch_result(r: Random, files: list[str]) -> PatchResult:
    undo = r.choice(
        [
            f"{w.date(r)}T{w.clock(r).replace(':', '')}",
            f"undo-{r.randint(1, 9999)}",
            f"{w.word(r)}-{r.randint(0, 99999)}",
        ]
    )
    return PatchResult(applied=True, files=files, undo=undo, tests=test_run(r))


def file_list(r: Random, path: str) -> FileResult:
    entries = []
    for _ in range(r.choice([0, 1, 2, 3, 4, 5, 7, 9])):
        kind = "directory" if r.random() < 0.3 else "file"
        name = w.stem(r) if kind == "directory" else f"{w.stem(r)}.{r.choice(w.ENDINGS)}"
        entries.append(
            FileEntry(
                name=name, kind=kind, bytes=0 if kind == "directory" else r.randint(1, 99_999)
            )
        )
    return FileResult(operation="list", path=path, truncated=False, entries=entries)


def file_read(r: Random, path: str) -> FileResult:
    content = "\n".join(text_line(r) for _ in range(r.choice([0, 1, 2, 3, 4, 6, 9])))
    size = len(content.encode())
    return FileResult(operation="read", path=path, bytes=size, truncated=False, content=content)


def text_line(r: Random) -> str:
    """A line of a text file, a setting, or code."""
    return r.choice(
        [
            lambda: sentence(r),
            lambda: f"{w.identifier(r)} = {w.plain(w.number(r, 2, -9, 999))}",
            lambda: f"{w.identifier(r)}: {w.word(r)}",
            lambda: f"# {w.topic(r).capitalize()}",
            lambda: f"- {w.topic(r)}",
            lambda: ",".join(
                w.plain(w.number(r, w.decimals(r), 0, 300)) for _ in range(r.randint(2, 5))
            ),
            lambda: f'"{w.identifier(r)}": "{w.word(r)}",',
            lambda: f"def {w.identifier(r)}():",
        ]
    )()


def sentence(r: Random) -> str:
    """A sentence of a document, without a full stop inside."""
    if r.random() < 0.4:
        return f"{english.statement(r)}."
    subject = r.choice([w.topic(r), w.identifier(r), f"the {w.topic(r)}", f"each {w.word(r)}"])
    if r.random() < 0.2:
        subject = f"`{w.identifier(r)}`{r.choice([':', '', ','])} {w.topic(r)}"
    verb = r.choice(
        [
            "is set by",
            "depends on",
            "is limited by",
            "is logged in",
            "starts after",
            "needs",
            "reads",
            "writes to",
            "must not exceed",
            "is restarted with",
            "keeps",
            "is kept for",
            "waits for",
            "replaces",
            "is stored in",
            "defaults to",
        ]
    )
    extra = r.choice(
        [
            lambda: w.identifier(r),
            lambda: f"{w.plain(w.number(r, w.decimals(r), 0, 9999))} {r.choice(w.UNITS)}",
            lambda: f"{w.topic(r)} and {w.word(r)}",
            lambda: f"`{w.identifier(r).upper()}`",
            lambda: f"`{w.identifier(r)}`",
            lambda: f"the {r.choice(w.PARTS)} {w.word(r)}, not the {w.word(r)}",
        ]
    )()
    return f"{subject[0].upper()}{subject[1:]} {verb} {extra}."


def heading(r: Random) -> str:
    """A heading as documents have them: a topic, a sentence's beginning, or a version."""
    kind = r.random()
    if kind < 0.4:
        return w.topic(r).capitalize()
    if kind < 0.8:
        return sentence(r).rstrip(".")
    return f"{w.identifier(r).upper()}-{r.randint(2019, 2027)}-{r.randint(1, 12):02d}"


def doc_matches(r: Random, query: str) -> DocMatches:
    chunks = []
    for n in range(1, 1 + r.choices([0, 1, 2, 3, 5], [1, 3, 3, 2, 3])[0]):
        start = r.randint(1, 300)
        item = "- " if r.random() < 0.25 else ""
        lines = [
            item + " ".join(sentence(r) for _ in range(r.randint(1, 3)))
            for _ in range(r.randint(1, 2))
        ]
        if n == 1 and r.random() < 0.4:
            opening = r.choice(["is", "depends on", "needs", "is controlled by", "means"])
            lines[0] = (
                f"{item}{query[0].upper()}{query[1:]} {opening} {w.identifier(r)}"
                f" {r.choice(w.PARTS)}. {lines[0]}"
            )
        if r.random() < 0.55:
            lines = [passage(r)]
        if r.random() < 0.8:
            headings = [heading(r) for _ in range(r.choices([1, 2, 3], [4, 5, 1])[0])]
            lines.insert(0, f"# {' > '.join(headings)}")
        chunks.append(
            DocChunk(
                n=n,
                source=w.file_path(r, r.choice(["md", "md", "txt", "py"])),
                start_line=start,
                end_line=start + r.randint(0, 30),
                score=round(r.uniform(0.1, 0.95), r.choice([2, 3, 4])),
                text="\n".join(lines),
            )
        )
    return DocMatches(results=chunks)


def error(r: Random, name: str, key: str) -> dict[str, str]:
    """An error of a tool, of a journal, or of the time limit."""
    if name == "get_map" and r.random() < 0.7:
        near = ", ".join(w.identifier(r) for _ in range(r.randint(1, 3)))
        return {
            "code": "unknown_map",
            "message": r.choice(
                [
                    f'There is no map "{key}".',
                    f"No map has the key '{key}'.",
                    f"There is no map with the key {key!r}.",
                ]
            ),
            "remedy": r.choice(
                [
                    f"Nearest keys: {near}.",
                    f"The nearest keys are {near}.",
                    f"Known keys near it: {near}.",
                ]
            ),
        }
    code, message, remedy = r.choice(
        [
            (
                "indeterminate",
                f"{name} was started and then interrupted: it may or may not have taken effect.",
                "Check its effect before you ask for it again. It was not run a second time.",
            ),
            (
                "unsandboxed",
                f"{name} executes code, and there is no sandbox for it.",
                "Set ALLOW_UNSANDBOXED=1 to run tests on this machine with your own rights.",
            ),
            ("no_file", f"There is no file {key}.", "List the folder first."),
            (
                "bad_cell",
                f"{key}: the cell at row {r.randint(0, 99)},"
                f" column {r.randint(0, 99)} lies outside.",
                "Rows and columns count from 0; call get_map for the shape.",
            ),
            (
                "bad_path",
                f"The path {key!r} is refused: {w.trouble(r)}.",
                "Give a plain relative path.",
            ),
            (
                "timeout",
                f"{name} did not end within {r.randint(1, 600)} s.",
                "Try a smaller request.",
            ),
            (
                "indeterminate",
                f"It is not known whether {name} was carried out.",
                "Look before you run it again.",
            ),
            (
                "outside_workspace",
                f"{key} is outside the workspace.",
                "Name a path inside the workspace.",
            ),
            ("not_found", f"There is no {key}.", f"List {w.folder(r)} first."),
            ("not_allowed", f"{name} is not allowed.", "Set ALLOW_UNSANDBOXED=1 to allow it."),
            (
                "invalid_arguments",
                f"{name}: {w.identifier(r)} is required.",
                "Call it again with this argument.",
            ),
            (
                w.identifier(r),
                f"{w.topic(r).capitalize()} {w.word(r)} failed.",
                f"Check {w.identifier(r)}.",
            ),
        ]
    )
    return {"code": code, "message": message, "remedy": remedy}
