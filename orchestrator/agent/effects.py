"""What a call would do, in words of ours, for the person who is asked to approve it.

The words come from the arguments as they are and from what the tool declares, never from a model or
from a tool's own prose.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

SHOWN_NAMES = 3
MAX_LETTERS = 80
OLD_FILE = re.compile(r"^--- (?:a/)?([^\t\n\r]+)", re.MULTILINE)
NEW_FILE = re.compile(r"^\+\+\+ (?:b/)?([^\t\n\r]+)", re.MULTILINE)
NOWHERE = "/dev/null"

Arguments = dict[str, Any]


def effect(server: str, tool: str, arguments: Arguments) -> str | None:
    """What this call of a tool of ours does, in one clause; None for a tool that is not known."""
    own = _EFFECTS.get(f"{server}.{tool}")
    said = own(arguments) if own else None
    return f"{tool} {said}" if said else None


def declared_effect(tool: str, destructive: bool, open_world: bool) -> str:
    """What a call may do by what the tool says of itself."""
    said = "may destroy or overwrite something" if destructive else "changes something"
    return f"{tool} {said}{', perhaps on other systems' if open_world else ''}"


def _apply_patch(arguments: Arguments) -> str | None:
    edits, patch = arguments.get("cell_edits"), arguments.get("patch")
    if isinstance(edits, list) and edits:
        maps = _unique(edit.get("map") for edit in edits if isinstance(edit, dict))
        cells = "1 cell" if len(edits) == 1 else f"{len(edits)} cells"
        return f"changes {cells} of {_listed(maps, 'map', 'maps')}"
    if isinstance(patch, str):
        return _patched(patch, arguments.get("repo"))
    return None


def _patched(patch: str, repo: Any) -> str | None:
    pairs = list(zip(OLD_FILE.findall(patch), NEW_FILE.findall(patch), strict=False))
    folder = f" in {_shown(repo)}" if isinstance(repo, str) and repo not in ("", ".") else ""
    created = _unique(new for old, new in pairs if old == NOWHERE)
    deleted = _unique(old for old, new in pairs if new == NOWHERE)
    changed = _unique(new for old, new in pairs if NOWHERE not in (old, new))
    said = [
        f"{verb} {_listed(names, 'the file', 'the files')}"
        for verb, names in (("changes", changed), ("creates", created), ("deletes", deleted))
        if names
    ]
    return ", ".join(said) + folder if said else None


def _file_operations(arguments: Arguments) -> str | None:
    path, to = _shown(arguments.get("path")), _shown(arguments.get("to"))
    content = arguments.get("content")
    match arguments.get("operation"):
        case "write":
            size = len(content.encode("utf-8", "replace")) if isinstance(content, str) else 0
            return f"writes {size} bytes to {path}, over what is there"
        case "move":
            return f"moves {path} to {to}"
        case "delete":
            return f"deletes {path}"
    return None


def _run_tests(arguments: Arguments) -> str:
    path = arguments.get("path", ".")
    where = "the whole workspace" if path == "." else _shown(path)
    return f"executes the test code of {where} on this machine"


_EFFECTS: dict[str, Callable[[Arguments], str | None]] = {
    "workspace.apply_patch": _apply_patch,
    "workspace.file_operations": _file_operations,
    "workspace.run_tests": _run_tests,
}


def _listed(names: Sequence[str], one: str, many: str) -> str:
    shown = ", ".join(_shown(name) for name in names[:SHOWN_NAMES])
    more = len(names) - SHOWN_NAMES
    return f"{one if len(names) == 1 else many} {shown}" + (f" and {more} more" if more > 0 else "")


def _unique(names: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def _shown(text: Any) -> str:
    """On one line, with nothing that would show as something else."""
    line = "".join(c if c.isprintable() else "�" for c in str(text))
    return line if len(line) <= MAX_LETTERS else f"{line[:MAX_LETTERS]}…"
