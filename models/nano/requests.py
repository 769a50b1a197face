"""What people ask for: a request in many words, with the call that answers it."""

from dataclasses import dataclass
from random import Random
from typing import Any

from models.nano import words as w
from models.nano.phrases import phrases, pick

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """A user's words, and the one call that fits them. `about` is a name in it, for errors."""

    text: str
    tool: str
    arguments: Arguments
    about: str = ""


MAP = phrases("map")
MAP_NAMES = phrases("map_names")
SPOKEN_NAMES = [name for name in MAP_NAMES if "{key}" not in name]
TABLE_WORDS = ("map", "table", "curve", "calibration", "data", "log", "series")
BARE = ["{key}", "the {key}", "{words}", "{title}", "`{key}`"]
LISTS = phrases("lists")
LOGS = phrases("logs")

VAGUE_LOGS = {
    "error": phrases("logs_of_errors"),
    "warning": phrases("logs_of_oddities"),
    None: phrases("logs_of_all"),
}
LIMITED = phrases("limited")
REGEX = phrases("regex")
WHEN = phrases("when")

LEVELS = {
    "debug": ["debug messages", "debug lines", "debug entries", "debug output"],
    "info": ["info messages", "info lines", "info entries", "infos"],
    "warning": ["warnings", "warning lines", "warning messages", "warnings"],
    "error": ["errors", "error lines", "error messages", "errors", "error entries"],
    "critical": ["critical messages", "critical errors", "critical lines", "criticals"],
}
LEVEL_LOGS = phrases("level_logs")
ONLY_LEVEL = phrases("only_level")
TESTS = phrases("tests")
ALL_TESTS = phrases("all_tests")
DOCS = phrases("docs")
KNOWN_DOCS = phrases("known_docs")
LIST_FILES = phrases("list_files")
LIST_ROOT = phrases("list_root")
READ = phrases("read")
WRITE = phrases("write")
MOVE = phrases("move")
DELETE = phrases("delete")
EDIT = phrases("edit")
TWO_EDITS = phrases("two_edits")
APPLY = phrases("apply")
AGAIN = phrases("again")
PATCH = phrases("patch")


def map_request(r: Random, key: str | None = None) -> Request:
    key = key or w.identifier(r)
    text = pick(r, r.choice(MAP)).replace("{map}", map_name(r, key))
    return Request(text, "get_map", {"key": key}, key)


def another_map(r: Random) -> Request:
    key = w.identifier(r)
    return Request(
        pick(r, AGAIN[0]).replace("{map}", map_name(r, key)), "get_map", {"key": key}, key
    )


def map_name(r: Random, key: str) -> str:
    """A map as people name it. Without the word map or an underscore, only words of the field."""
    spaced = key.replace("_", " ")
    name = r.choice(SPOKEN_NAMES if r.random() < 0.25 else MAP_NAMES)
    plain = "_" in key and all(part in w.PARTS for part in key.split("_"))
    last = key.rsplit("_", 1)[-1]
    if last in TABLE_WORDS and "{key}" not in name:
        # "the ve table" would be `ve` as well as `ve_table`.
        name = "map {key}" if last == "map" else "the {words} map"
    elif name in BARE and not ("_" in key if "{key}" in name else plain):
        name = r.choice(["the {key} map", "{key} table", "the {words} map", "map {key}"])
    return (
        name.replace("{key}", key)
        .replace("{words}", spaced)
        .replace("{dashed}", key.replace("_", "-"))
        .replace("{title}", spaced.title())
    )


def list_request(r: Random) -> Request:
    return Request(pick(r, r.choice(LISTS)), "list_maps", {}, "maps")


def log_request(r: Random) -> Request:
    draw = r.random()
    if draw < 0.14:
        return _vague_log_request(r)
    if draw < 0.2:
        return _limited_log_request(r)
    if draw < 0.23:
        return _regex_request(r)
    what: str = w.trouble(r)
    arguments: Arguments = {}
    level = r.choice(list(LEVELS)) if r.random() < 0.5 else None
    if level and r.random() < 0.35:
        text, what = r.choice(ONLY_LEVEL), ""
    else:
        text = r.choice(LEVEL_LOGS if level else LOGS)
        arguments["query"] = what
    quoted = r.choice(["{}", "{}", "{}", '"{}"', "'{}'"]).format(what)
    text = pick(r, text).replace("{what}", quoted)
    if level:
        arguments["level"] = level
        text = text.replace("{level}", r.choice(LEVELS[level]))
    text += f" {r.choice(WHEN)}" if r.random() < 0.12 else ""
    return Request(_bounded(r, text, arguments), "search_logs", arguments, what or "log")


def _vague_log_request(r: Random) -> Request:
    level = r.choice(["error", "error", "warning", None])
    text = pick(r, r.choice(VAGUE_LOGS[level]))
    arguments = {"level": level} if level else {}
    text += f" {r.choice(WHEN)}" if r.random() < 0.35 else ""
    return Request(_bounded(r, text, arguments), "search_logs", arguments, "log")


def _limited_log_request(r: Random) -> Request:
    level, limit = r.choice(list(LEVELS)), r.randint(1, 50)
    text = pick(r, r.choice(LIMITED)).replace("{level}", r.choice(LEVELS[level]))
    arguments = {"level": level, "limit": limit}
    return Request(text.replace("{d}", str(limit)), "search_logs", arguments, "log")


def _regex_request(r: Random) -> Request:
    middle = r.choice([r"\d+", ".*", r"\s", "[0-9]+", "|", r"\w+", ".+", r"=\d\d"])
    pattern = f"{w.word(r)}{middle}{w.word(r) if r.random() < 0.7 else ''}"
    text = pick(r, r.choice(REGEX)).replace(
        "{what}", r.choice(["{}", "`{}`", '"{}"']).format(pattern)
    )
    return Request(text, "search_logs", {"regex": pattern}, "log")


def _bounded(r: Random, text: str, arguments: Arguments) -> str:
    if r.random() < 0.2:
        arguments["since"] = since = _instant(r)
        text += r.choice(
            [f" since {since}", f" after {since}", f" from {since} on", f" since {since}"]
        )
        if r.random() < 0.3:
            arguments["until"] = until = _instant(r)
            text += r.choice([f" until {until}", f" and before {until}", f" up to {until}"])
    elif r.random() < 0.12:
        arguments["file"] = file = f"{r.choice(w.LOGGERS) if r.random() < 0.6 else w.word(r)}.log"
        text += r.choice([f" in {file}", f" in the file {file}", f", only {file}", f" from {file}"])
    return text


def _instant(r: Random) -> str:
    return r.choice(
        [
            w.date(r),
            f"{w.date(r)}T{w.clock(r)[:5]}",
            f"{w.date(r)} {w.clock(r)[:5]}",
            w.clock(r)[:5],
            w.clock(r)[:5],
            f"{w.date(r)}T{w.clock(r)}",
        ]
    )


def test_request(r: Random) -> Request:
    if r.random() < 0.25:
        return Request(pick(r, r.choice(ALL_TESTS)), "run_tests", {}, "tests")
    path = w.folder(r)
    if r.random() < 0.5:
        path = w.file_path(r, "py") + (f"::test_{w.identifier(r)}" if r.random() < 0.2 else "")
    elif r.random() < 0.3:
        path += "/"
    text = pick(r, r.choice(TESTS))
    if "test" not in text and not {"/", "."} & set(path):
        path += "/"
    text = text.replace("{path}", path)
    return Request(text, "run_tests", {"path": path}, path)


def doc_request(r: Random) -> Request:
    if r.random() < 0.25:
        what = r.choice(w.TOPICS)
        text = pick(r, r.choice(KNOWN_DOCS)).replace("{what}", what)
        return Request(text, "search_docs", {"query": what}, what)
    what = w.topic(r)
    shown = r.choice(["{}", "{}", "{}", '"{}"']).format(what)
    text = pick(r, r.choice(DOCS)).replace("{what}", shown)
    return Request(text, "search_docs", {"query": what}, what)


def file_request(r: Random) -> Request:
    kind = r.choices(["list", "root", "read", "write", "move", "delete"], [3, 1, 5, 3, 2, 2])[0]
    if kind == "root":
        return Request(
            pick(r, r.choice(LIST_ROOT)), "file_operations", {"operation": "list", "path": "."}, "."
        )
    path = w.folder(r) if kind == "list" else w.file_path(r)
    arguments = {"operation": kind, "path": path}
    templates = {"list": LIST_FILES, "read": READ, "write": WRITE, "move": MOVE, "delete": DELETE}
    text = " ".join(pick(r, r.choice(templates[kind])).split())
    text = text.replace("{folder}", path).replace("{path}", path)
    if kind == "write":
        arguments["content"] = content = _content(r)
        quote = r.choice(['"', '"', "'", "`"])
        text = text.replace("{content}", f"{quote}{content}{quote}")
    if kind == "move":
        arguments["to"] = to = w.file_path(r) if r.random() < 0.7 else w.folder(r)
        text = text.replace("{to}", to)
    return Request(text, "file_operations", arguments, path)


def _content(r: Random) -> str:
    kinds = [
        lambda: f"{w.word(r)} {w.topic(r)}",
        lambda: f"{w.identifier(r)}={w.plain(w.number(r, 1, 0, 99))}",
        lambda: r.choice(
            ["hello world", "done", "todo: call back", "see the report", "remember the milk"]
        ),
        lambda: f"{w.topic(r)} {r.choice(['is', 'needs', 'must be'])} {w.word(r)}",
        lambda: " ".join(w.word(r) for _ in range(r.randint(1, 4))),
    ]
    return r.choice(kinds)()


def edit_request(r: Random) -> Request:
    key, unit = w.identifier(r), r.choice(["", "", " " + r.choice(w.UNITS)])
    edits = [_edit(r, key)]
    template = r.choice(EDIT)
    if r.random() < 0.25:
        edits.append(_edit(r, key))
        template = r.choice(TWO_EDITS)
    text = pick(r, template).replace("{map}", map_name(r, key)).replace("{key}", key)
    text = text.replace("⟦", "[").replace("⟧", "]")
    for edit, mark in zip(edits, ["", "2"], strict=False):
        for name in ("row", "column"):
            text = text.replace(f"{{{name}{mark}}}", str(edit[name]))
        text = text.replace(f"{{value{mark}}}", w.plain(edit["value"]) + unit)
    return Request(text, "apply_patch", {"cell_edits": edits}, key)


def _edit(r: Random, key: str) -> Arguments:
    low = r.choice([-60, 0, 0, 0])
    value = w.number(r, w.decimals(r), low, low + r.choice([10, 100, 400, 7000]))
    value = int(value) if value.is_integer() else value
    return {"map": key, "row": r.randint(0, 24), "column": r.randint(0, 24), "value": value}


def apply_request(r: Random, edits: list[Arguments]) -> Request:
    """The follow-up to a suggestion: its cells, in its order."""
    return Request(pick(r, r.choice(APPLY)), "apply_patch", {"cell_edits": edits}, edits[0]["map"])


def diff_request(r: Random) -> Request:
    path, line = w.file_path(r, r.choice(["py", "md", "txt"])), r.randint(1, 90)
    old, new = f"{w.identifier(r)} = {r.randint(0, 99)}", f"{w.identifier(r)} = {r.randint(0, 99)}"
    diff = f"--- a/{path}\n+++ b/{path}\n@@ -{line} +{line} @@\n-{old}\n+{new}\n"
    return Request(f"{pick(r, r.choice(PATCH))}\n{diff}", "apply_patch", {"patch": diff}, path)


REQUESTS = [
    (map_request, 13), (list_request, 5), (log_request, 8), (test_request, 4), (doc_request, 7),
    (file_request, 8), (edit_request, 5), (diff_request, 0.5),
]  # fmt: skip


def request(r: Random) -> Request:
    """One request of any kind that starts a conversation."""
    makers = [maker for maker, _ in REQUESTS]
    return r.choices(makers, [weight for _, weight in REQUESTS])[0](r)
