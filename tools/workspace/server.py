"""The workspace tools: file operations, patches with an undo, and test runs."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import anyio.to_thread
from mcp.server import MCPServer
from mcp_types import ToolAnnotations
from pydantic import Field

from contracts.errors import BadRequest, SettingsError
from contracts.tools import CellEdit, FileOperation, FileResult, PatchResult, TestRun
from tools.tool import tool
from tools.workspace import testing
from tools.workspace.changes import Change, commit
from tools.workspace.files import operate
from tools.workspace.patches import plan_cells, plan_patch
from tools.workspace.paths import Place, Workspace, open_folder

REFUSED = "variet/refused"
READONLY_WHEN = {"operation": ["list", "read"]}

Content = Annotated[str | None, Field(description="for write: the whole new text")]
Target = Annotated[str | None, Field(description="for move: the new path")]
FilePath = Annotated[str, Field(description="path in the workspace")]
TestPath = Annotated[str, Field(description="folder, file, or file::test; default: all")]
Repo = Annotated[str | None, Field(description="folder that the patch is relative to")]
Patch = Annotated[str | None, Field(description="unified diff")]
CellEdits = Annotated[list[CellEdit] | None, Field(description="new values of map cells")]


def changes_nothing(arguments: Mapping[str, Any]) -> bool:
    """Whether this call of file_operations only reads. The tool says the same in its metadata."""
    return arguments.get("operation") in READONLY_WHEN["operation"]


def server(
    roots: Sequence[Path],
    maps_dir: Path,
    undo_dir: Path,
    allow_unsandboxed: bool = False,
    limits: testing.Limits | None = None,
) -> MCPServer:
    """An MCP server over the folders `roots`; relative paths belong to the first.

    `maps_dir` is where cell edits go, `undo_dir` where the states before each patch are kept. Tests
    run only with `allow_unsandboxed`. Raises SettingsError when the tools could reach `undo_dir`.
    """
    workspace = Workspace(roots)
    _check_apart(workspace, undo_dir)
    one_at_a_time = threading.Lock()

    def file_operations(
        operation: FileOperation, path: FilePath, content: Content = None, to: Target = None
    ) -> FileResult:
        if changes_nothing({"operation": operation}):
            return operate(workspace, operation, path, content, to)
        with one_at_a_time:
            return operate(workspace, operation, path, content, to)

    async def apply_patch(
        repo: Repo = None, patch: Patch = None, cell_edits: CellEdits = None
    ) -> PatchResult:
        _check_one_of(repo, patch, cell_edits)

        def change() -> tuple[list[Change], str]:
            with one_at_a_time:
                if cell_edits:
                    changes = plan_cells(maps_dir, cell_edits)
                else:
                    changes = plan_patch(_folder(workspace, repo), patch or "")
                return changes, commit(changes, undo_dir)

        changes, undo = await anyio.to_thread.run_sync(change)
        return PatchResult(
            applied=True,
            files=[_shown(workspace, change.place) for change in changes],
            undo=undo,
            tests=await _tests_of(changes[0].place if changes else None),
        )

    async def run_tests(path: TestPath = ".") -> TestRun:
        if not allow_unsandboxed:
            raise testing.unsandboxed()
        place, node = testing.locate_tests(workspace, path)
        return await testing.run_pytest(place, node, limits)

    async def _tests_of(place: Place | None) -> TestRun:
        """Run the tests of the project that a changed file belongs to."""
        if not allow_unsandboxed:
            return testing.not_run(testing.UNSANDBOXED_REASON)
        if place is None:
            return testing.not_run("The patch changes nothing.")
        inside = _in_workspace(workspace, place)
        if inside is None:
            return testing.not_run("The map folder lies outside the workspace.")
        return await testing.run_pytest(testing.project_of(inside.parent), "", limits)

    return MCPServer(
        "workspace",
        tools=[
            tool(
                file_operations,
                "List, read, write, move or delete files in the workspace.",
                _changes(),
                meta={"variet/readonly_when": READONLY_WHEN},
            ),
            tool(
                apply_patch,
                "Change calibration cells or apply a unified diff, then run the tests.",
                _changes(open_world=allow_unsandboxed),
            ),
            tool(
                run_tests,
                "Run pytest on a path in the workspace.",
                _changes(open_world=True),
                # Said before the call, so that nobody is asked to approve what is then refused.
                meta=None if allow_unsandboxed else {REFUSED: testing.unsandboxed().body()},
            ),
        ],
    )


def _changes(open_world: bool = False) -> ToolAnnotations:
    return ToolAnnotations(
        read_only_hint=False,
        destructive_hint=True,
        idempotent_hint=False,
        open_world_hint=open_world,
    )


def _check_apart(workspace: Workspace, undo_dir: Path) -> None:
    for root in workspace.roots:
        if undo_dir.resolve().is_relative_to(root.resolve()):
            raise SettingsError(
                "state_in_workspace",
                f"WORKSPACE_DIR={root} holds {undo_dir}: tools could change what they record.",
                "Choose a WORKSPACE_DIR that does not hold STATE_DIR.",
            )


def _check_one_of(repo: str | None, patch: str | None, cell_edits: list[CellEdit] | None) -> None:
    if bool(patch) == bool(cell_edits):
        given = "both" if patch else "neither"
        raise BadRequest(
            "bad_arguments",
            f"apply_patch takes either patch or cell_edits; it got {given}.",
            "Give repo and patch, or cell_edits alone.",
        )
    if repo and cell_edits:
        raise BadRequest(
            "bad_arguments", f"cell_edits takes no repo (got {repo!r}).", "Leave repo out."
        )


def _folder(workspace: Workspace, repo: str | None) -> Place:
    place = workspace.locate(repo or ".")
    with open_folder(place):
        return place


def _in_workspace(workspace: Workspace, place: Place) -> Place | None:
    """The same place as seen from the root that it lies in."""
    for root in workspace.roots:
        if place.path.is_relative_to(root):
            return Place(root, place.path.relative_to(root).parts)
    return None


def _shown(workspace: Workspace, place: Place) -> str:
    return str(_in_workspace(workspace, place) or place.path)
