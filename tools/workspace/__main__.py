"""The workspace tools as a process of their own; and what apply_patch did, taken back.

    python -m tools.workspace serve         # MCP on TOOL_HOST:TOOL_PORT, over WORKSPACE_DIR
    python -m tools.workspace list          # the saved states of STATE_DIR, newest first
    python -m tools.workspace undo NAME     # bring back the files as they were before

NAME is what apply_patch answered as `undo`.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.errors import VarietError
from contracts.settings import Settings, load_settings
from tools.serve import run
from tools.workspace.changes import saved_states, undo

if TYPE_CHECKING:
    from mcp.server import MCPServer


def main(arguments: list[str]) -> int:
    try:
        match arguments:
            case ["serve"]:
                return run("workspace", _server)
            case ["list"]:
                return _list(_undo_dir())
            case ["undo", name]:
                return _undo(_undo_dir(), name)
    except VarietError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(__doc__, file=sys.stderr)
    return 2


def _server(settings: Settings) -> "MCPServer":
    from tools.workspace.server import server

    return server(
        [settings.workspace], settings.maps, settings.undo_dir, settings.allow_unsandboxed
    )


def _undo_dir() -> Path:
    return load_settings().undo_dir


def _list(undo_dir: Path) -> int:
    for name, paths in saved_states(undo_dir):
        print(f"{name}  {', '.join(paths)}")
    return 0


def _undo(undo_dir: Path, name: str) -> int:
    for path in undo(undo_dir, name):
        print(f"{path} is as it was.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
