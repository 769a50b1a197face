import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from contracts.errors import SettingsError, VarietError
from contracts.tools import CellEdit
from tests.support.tool_errors import error_of
from tools.calibration.maps import load_map
from tools.workspace import changes
from tools.workspace.__main__ import main
from tools.workspace.changes import Change, commit, undo
from tools.workspace.diff import apply_hunks, parse_patch
from tools.workspace.patches import plan_cells, plan_patch
from tools.workspace.paths import Place
from tools.workspace.server import server

SAMPLES = Path(__file__).parents[2] / "data" / "samples"

EDIT = """\
--- a/src/a.py
+++ b/src/a.py
@@ -1,3 +1,3 @@
 one
-two
+TWO
 three
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "workspace"
    (root / "src").mkdir(parents=True)
    (root / "src" / "a.py").write_text("one\ntwo\nthree\n")
    (root / "src" / "b.py").write_text("".join(f"line {n}\n" for n in range(1, 21)))
    return root


@pytest.fixture
def undo_dir(tmp_path: Path) -> Path:
    return tmp_path / "undo"


def patch(root: Path, text: str) -> str:
    """Apply a patch below the root; returns the undo's name."""
    return commit(plan_patch(Place(root, ()), text), root.parent / "undo")


def refusal(root: Path, text: str) -> VarietError:
    """The error of a patch, which has to leave everything as it was."""
    before = snapshot(root)
    with pytest.raises(VarietError) as caught:
        patch(root, text)
    assert snapshot(root) == before
    assert caught.value.remedy
    assert caught.value.message.isprintable()
    return caught.value


def snapshot(root: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes()
        for path in root.rglob("*")
        if path.is_dir() or (path.is_file() and not path.is_symlink())
    }


def renamed(text: str, path: str) -> str:
    return text.replace("src/a.py", path)


def created(path: str, mode: str = "100644", content: str = "x") -> str:
    return (
        f"diff --git a/{path} b/{path}\nnew file mode {mode}\nindex 0000000..587be6b\n"
        f"--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+{content}\n"
    )


def test_a_plain_diff_is_applied(root: Path) -> None:
    patch(root, EDIT)
    assert (root / "src" / "a.py").read_text() == "one\nTWO\nthree\n"


def test_names_without_prefixes_and_with_times_are_understood(root: Path) -> None:
    text = EDIT.replace("a/src/a.py", "src/a.py\t2026-11-20 10:00:00").replace("b/src", "src")
    patch(root, text)
    assert "TWO" in (root / "src" / "a.py").read_text()


def test_a_git_diff_of_several_files_is_applied(root: Path) -> None:
    text = (
        "diff --git a/src/a.py b/src/a.py\nindex 1..2 100644\n"
        + EDIT
        + created("src/new/c.py")
        + "diff --git a/src/b.py b/src/b.py\nindex 1..2 100644\n--- a/src/b.py\n+++ b/src/b.py\n"
        "@@ -1,2 +1,2 @@ def f():\n-line 1\n+LINE 1\n line 2\n"
        "@@ -19,2 +19,3 @@\n line 19\n line 20\n+line 21\n-- \n2.43.0\n"
    )
    patch(root, text)
    assert (root / "src" / "new" / "c.py").read_text() == "x\n"
    lines = (root / "src" / "b.py").read_text().splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("LINE 1", "line 21", 21)


def test_a_file_is_deleted_when_the_patch_empties_it(root: Path) -> None:
    patch(
        root,
        "diff --git a/src/a.py b/src/a.py\ndeleted file mode 100644\n--- a/src/a.py\n"
        "+++ /dev/null\n@@ -1,3 +0,0 @@\n-one\n-two\n-three\n",
    )
    assert not (root / "src" / "a.py").exists()


def test_two_hunks_of_one_file_move_each_other(root: Path) -> None:
    patch(
        root,
        "--- a/src/b.py\n+++ b/src/b.py\n@@ -2,2 +2,4 @@\n line 2\n+new\n+new\n line 3\n"
        "@@ -10,2 +12,1 @@\n line 10\n-line 11\n",
    )
    lines = (root / "src" / "b.py").read_text().splitlines()
    assert lines[1:5] == ["line 2", "new", "new", "line 3"]
    assert "line 11" not in lines


def test_context_that_stands_elsewhere_once_is_found(root: Path) -> None:
    patch(root, "--- a/src/b.py\n+++ b/src/b.py\n@@ -3,2 +3,2 @@\n line 15\n-line 16\n+here\n")
    assert (root / "src" / "b.py").read_text().splitlines()[15] == "here"


def test_context_that_stands_elsewhere_twice_is_refused(root: Path) -> None:
    (root / "src" / "a.py").write_text("x\ny\n\nx\ny\n")
    error = refusal(root, "--- a/src/a.py\n+++ b/src/a.py\n@@ -3,2 +3,1 @@\n x\n-y\n")
    assert error.code == "context_mismatch"
    assert "2 times" in error.message


def test_a_context_mismatch_names_file_hunk_and_line(root: Path) -> None:
    error = refusal(root, EDIT.replace(" three", " four"))
    assert error.code == "context_mismatch"
    assert error.message == ("src/a.py, hunk 1: line 3 is 'three', the patch expects 'four'.")


def test_overlapping_hunks_are_refused(root: Path) -> None:
    error = refusal(
        root,
        "--- a/src/b.py\n+++ b/src/b.py\n@@ -2,2 +2,1 @@\n line 2\n-line 3\n"
        "@@ -3,2 +3,1 @@\n line 3\n-line 4\n",
    )
    assert error.code == "context_mismatch"


def test_line_ends_of_a_crlf_file_stay(root: Path) -> None:
    (root / "src" / "a.py").write_bytes(b"one\r\ntwo\r\nthree\r\n")
    patch(root, EDIT)
    assert (root / "src" / "a.py").read_bytes() == b"one\r\nTWO\r\nthree\r\n"


def test_a_patch_with_crlf_does_not_bring_it_into_the_file(root: Path) -> None:
    patch(root, EDIT.replace("\n", "\r\n"))
    assert (root / "src" / "a.py").read_bytes() == b"one\nTWO\nthree\n"


def test_a_mixed_file_keeps_every_line_that_is_not_changed(root: Path) -> None:
    (root / "src" / "a.py").write_bytes(b"one\ntwo\r\nthree")
    patch(root, EDIT)
    assert (root / "src" / "a.py").read_bytes() == b"one\nTWO\nthree"


def test_a_missing_final_line_break_is_kept_or_made_as_the_patch_says(root: Path) -> None:
    mark = "\\ No newline at end of file\n"
    (root / "src" / "a.py").write_text("one\ntwo")
    head = "--- a/src/a.py\n+++ b/src/a.py\n@@ -1,2 +1,2 @@\n one\n"
    patch(root, f"{head}-two\n{mark}+TWO\n")
    assert (root / "src" / "a.py").read_text() == "one\nTWO\n"
    patch(root, f"{head}-TWO\n+two\n{mark}")
    assert (root / "src" / "a.py").read_text() == "one\ntwo"


def test_a_line_added_after_an_unended_one_stands_on_its_own(root: Path) -> None:
    (root / "src" / "a.py").write_text("one")
    patch(root, "--- a/src/a.py\n+++ b/src/a.py\n@@ -1 +1,2 @@\n one\n+two\n")
    assert (root / "src" / "a.py").read_text() == "one\ntwo\n"


def test_lines_that_look_like_headers_are_content(root: Path) -> None:
    (root / "src" / "a.py").write_text("-- sql comment\nx\n")
    text = "--- a/src/a.py\n+++ b/src/a.py\n@@ -1,2 +1,2 @@\n--- sql comment\n+++ x\n x\n"
    assert apply_hunks(parse_patch(text)[0], "-- sql comment\nx\n") == "++ x\nx\n"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("../outside.txt", "outside_workspace"),
        ("src/../../outside.txt", "outside_workspace"),
        ("~/x", "bad_path"),
        ("src\\x", "bad_path"),
        ("src/x\u202e", "bad_path"),
        (".git/hooks/pre-commit", "protected_path"),
        (".git/config", "protected_path"),
        (".Git/config", "protected_path"),
        ("src/.git/hooks/post-checkout", "protected_path"),
        (".vscode/tasks.json", "protected_path"),
        (".github/workflows/ci.yml", "protected_path"),
        (".gitattributes", "protected_path"),
        (".gitmodules", "protected_path"),
    ],
)
def test_dangerous_paths_are_refused(root: Path, path: str, code: str) -> None:
    assert refusal(root, created(path)).code == code
    assert not (root.parent / "outside.txt").exists()


def test_absolute_paths_are_refused(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "outside.txt"
    for text in (
        f"--- /dev/null\n+++ {target}\n@@ -0,0 +1 @@\n+x\n",
        f"--- /dev/null\n+++ b/{target}\n@@ -0,0 +1 @@\n+x\n",
        f"--- /dev/null\n+++ {root}/src/new.py\n@@ -0,0 +1 @@\n+x\n",
    ):
        assert refusal(root, text).code == "bad_path"
    assert not target.exists()


def test_a_new_link_is_refused(root: Path) -> None:
    error = refusal(root, created("link", mode="120000", content="/etc/passwd"))
    assert error.code == "refused_patch"
    assert "symbolic link" in error.message


def test_a_submodule_is_refused(root: Path) -> None:
    assert refusal(root, created("sub", mode="160000")).code == "refused_patch"


def test_a_change_of_mode_is_refused(root: Path) -> None:
    text = "diff --git a/src/a.py b/src/a.py\nold mode 100644\nnew mode 100755\n" + EDIT
    assert refusal(root, text).code == "refused_patch"


def test_patching_through_a_link_is_refused(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.py").write_text("one\ntwo\nthree\n")
    (root / "link").symlink_to(outside)
    (root / "file").symlink_to(outside / "a.py")
    assert refusal(root, renamed(EDIT, "link/a.py")).code == "not_a_regular_file"
    assert refusal(root, renamed(EDIT, "file")).code == "not_a_regular_file"
    assert refusal(root, created("link/new.py")).code == "not_a_regular_file"
    assert (outside / "a.py").read_text() == "one\ntwo\nthree\n"


@pytest.mark.timeout(10)
def test_patching_a_fifo_is_refused_without_waiting(root: Path) -> None:
    os.mkfifo(root / "fifo")
    assert refusal(root, renamed(EDIT, "fifo")).code == "not_a_regular_file"


@pytest.mark.parametrize(
    "text",
    [
        "diff --git a/src/a.py b/src/c.py\nsimilarity index 100%\nrename from src/a.py\n"
        "rename to src/c.py\n",
        "diff --git a/src/a.py b/.git/hooks/pre-commit\nsimilarity index 90%\ncopy from src/a.py\n"
        "copy to .git/hooks/pre-commit\n" + EDIT,
        EDIT.replace("+++ b/src/a.py", "+++ b/src/c.py"),
        "diff --git a/src/a.py b/.git/config\n" + EDIT,
        "diff --git a/x b/x\nGIT binary patch\nliteral 4\nLcmZ\n",
        "Binary files a/src/a.py and b/src/a.py differ\n",
    ],
    ids=["rename", "copy into .git", "two names", "git line names another", "binary", "differ"],
)
def test_rename_tricks_and_binary_data_are_refused(root: Path, text: str) -> None:
    assert refusal(root, text).code == "refused_patch"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "--- a/src/a.py\n",
        "--- a/src/a.py\n+++ b/src/a.py\n",
        "--- a/src/a.py\n+++ b/src/a.py\n@@ nonsense @@\n x\n",
        "@@ -1 +1 @@\n-one\n+ONE\n",
        EDIT.replace("-1,3", "-1,2"),
        EDIT.replace("-1,3 +1,3", "-1,9 +1,9"),
        EDIT + EDIT,
        EDIT.replace("--- a/src/a.py", '--- "a/src/\\303\\274.py"'),
        "--- /dev/null\n+++ /dev/null\n@@ -0,0 +1 @@\n+x\n",
        "diff --git a/src/a.py b/src/a.py\n" + created("z"),
        "x" * (1024 * 1024 + 1),
    ],
    ids=[
        "empty", "prose", "half header", "no hunk", "bad hunk", "hunk alone", "fewer counted",
        "more counted", "file twice", "quoted", "nothing to nothing", "no change", "huge",
    ],
)  # fmt: skip
def test_what_is_no_correct_diff_is_refused(root: Path, text: str) -> None:
    assert refusal(root, text).code == "bad_patch"


def test_creating_a_file_that_exists_is_refused(root: Path) -> None:
    assert refusal(root, created("src/a.py")).code == "exists"


def test_changing_a_file_that_does_not_exist_is_refused(root: Path) -> None:
    assert refusal(root, renamed(EDIT, "src/none.py")).code == "no_file"


def test_deleting_more_than_the_patch_knows_is_refused(root: Path) -> None:
    text = "--- a/src/a.py\n+++ /dev/null\n@@ -1,2 +0,0 @@\n-one\n-two\n"
    assert refusal(root, text).code == "context_mismatch"


def test_binary_files_are_not_patched(root: Path) -> None:
    (root / "src" / "a.py").write_bytes(b"one\n\xff\nthree\n")
    assert refusal(root, EDIT).code == "binary_file"


def test_one_bad_file_leaves_all_others_alone(root: Path) -> None:
    refusal(root, EDIT + created("src/new.py") + renamed(EDIT, "src/none.py"))


def test_a_failure_half_way_puts_everything_back(
    root: Path, undo_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fails at the last of three renames."""
    before = snapshot(root)
    plan = plan_patch(
        Place(root, ()),
        EDIT
        + created("src/new/deep/c.py")
        + "--- a/src/b.py\n+++ b/src/b.py\n@@ -1 +1 @@\n-line 1\n+LINE 1\n",
    )
    replace = os.replace

    def failing(source: str, target: str, **folders: Any) -> None:
        if target == "b.py":
            raise OSError(28, "No space left on device")
        replace(source, target, **folders)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(VarietError, match="No space left"):
        commit(plan, undo_dir)
    assert snapshot(root) == before
    assert list(undo_dir.iterdir()) == []


def test_a_file_that_changed_since_the_plan_stops_the_whole_patch(
    root: Path, undo_dir: Path
) -> None:
    plan = plan_patch(Place(root, ()), created("src/new.py") + EDIT)
    (root / "src" / "a.py").write_text("edited meanwhile")
    with pytest.raises(VarietError) as caught:
        commit(plan, undo_dir)
    assert caught.value.code == "changed_meanwhile"
    assert not (root / "src" / "new.py").exists()
    assert (root / "src" / "a.py").read_text() == "edited meanwhile"


def test_a_patch_is_undone(root: Path, undo_dir: Path) -> None:
    before = snapshot(root)
    name = patch(root, EDIT + created("src/new.py"))
    assert snapshot(root) != before
    assert sorted(undo(undo_dir, name)) == ["src/a.py", "src/new.py"]
    assert snapshot(root) == before
    with pytest.raises(VarietError, match="no saved state"):
        undo(undo_dir, name)


def test_an_undo_does_not_overwrite_later_work(root: Path, undo_dir: Path) -> None:
    name = patch(root, EDIT)
    (root / "src" / "a.py").write_text("later work")
    with pytest.raises(VarietError) as caught:
        undo(undo_dir, name)
    assert caught.value.code == "changed_meanwhile"
    assert (root / "src" / "a.py").read_text() == "later work"


def test_a_crash_between_two_renames_is_undone(root: Path, undo_dir: Path) -> None:
    """The saved state is there before the first change, so half a patch can be reversed."""
    before = snapshot(root)
    name = patch(root, EDIT + created("src/new.py"))
    (root / "src" / "a.py").write_bytes(before["src/a.py"] or b"")
    undo(undo_dir, name)
    assert snapshot(root) == before


@pytest.mark.parametrize("name", ["../undo/x", ".hidden", "none", ""])
def test_an_undo_name_is_no_path(undo_dir: Path, name: str) -> None:
    with pytest.raises(VarietError) as caught:
        undo(undo_dir, name)
    assert caught.value.code == "unknown_undo"


def test_only_the_latest_states_are_kept(
    root: Path, undo_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "MAX_SAVED", 2)
    undo_dir.mkdir()
    (undo_dir / "20200101T000000-aaaaaa.json").write_text("{}")
    (undo_dir / "20200102T000000-aaaaaa.json").write_text("{}")
    name = patch(root, EDIT)
    kept = sorted(path.stem for path in undo_dir.iterdir())
    assert kept == ["20200102T000000-aaaaaa", name]


def test_saved_states_are_for_the_owner_alone(root: Path, undo_dir: Path) -> None:
    patch(root, EDIT)
    assert undo_dir.stat().st_mode & 0o077 == 0


@pytest.fixture
def maps_dir(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SAMPLES / "maps", tmp_path / "maps"))


def test_cells_change_and_nothing_else_does(maps_dir: Path, undo_dir: Path) -> None:
    before = (maps_dir / "boost_target.csv").read_text()
    edits = [
        CellEdit(map="boost_target", row=3, column=8, value=177),
        CellEdit(map="boost_target", row=6, column=5, value=164),
        CellEdit(map="ve_table", row=1, column=7, value=70.2),
    ]
    name = commit(plan_cells(maps_dir, edits), undo_dir)
    assert load_map(maps_dir, "boost_target").table[3][8] == 177
    assert load_map(maps_dir, "ve_table").table[1][7] == 70.2
    after = (maps_dir / "boost_target.csv").read_text()
    assert after == before.replace("131,   189", "177,   189").replace("214", "164")
    undo(undo_dir, name)
    assert (maps_dir / "boost_target.csv").read_text() == before


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        ({"row": 12, "column": 0}, "boost_target: the cell at row 12, column 0 is outside"),
        ({"row": 0, "column": 10}, "columns are 0 to 9"),
        ({"row": 0, "column": 0, "value": float("inf")}, "cannot be inf"),
        ({"map": "boost", "row": 0, "column": 0}, "no map with the key 'boost'"),
    ],
)
def test_a_cell_that_is_not_there_is_named(
    maps_dir: Path, edit: dict[str, Any], complaint: str
) -> None:
    given = CellEdit(**({"map": "boost_target", "value": 1} | edit))
    with pytest.raises(VarietError, match=complaint):
        plan_cells(maps_dir, [CellEdit(map="ve_table", row=0, column=0, value=50), given])


def test_a_value_that_a_cell_has_already_is_no_change(maps_dir: Path) -> None:
    edits = [
        CellEdit(map="boost_target", row=0, column=0, value=100),
        CellEdit(map="ve_table", row=1, column=7, value=70.2),
    ]
    assert [change.place.name for change in plan_cells(maps_dir, edits)] == ["ve_table.json"]


def test_one_cell_is_not_edited_twice(maps_dir: Path) -> None:
    edit = CellEdit(map="boost_target", row=0, column=0, value=1)
    with pytest.raises(VarietError, match="given twice"):
        plan_cells(maps_dir, [edit, edit])


def test_a_map_that_is_a_link_is_not_edited(maps_dir: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.csv"
    (maps_dir / "boost_target.csv").rename(outside)
    (maps_dir / "boost_target.csv").symlink_to(outside)
    with pytest.raises(VarietError):
        plan_cells(maps_dir, [CellEdit(map="boost_target", row=0, column=0, value=1)])


async def apply(root: Path, maps_dir: Path, **arguments: Any) -> Any:
    async with Client(server([root], maps_dir, root.parent / "undo")) as client:
        return await client.call_tool("apply_patch", arguments)


async def test_the_tool_applies_a_patch_and_says_that_no_tests_ran(
    root: Path, maps_dir: Path
) -> None:
    result = await apply(root, maps_dir, repo="src", patch=renamed(EDIT, "a.py"))
    body = result.structured_content
    assert (body["applied"], body["files"]) == (True, ["src/a.py"])
    assert body["tests"]["status"] == "not_run"
    assert "ALLOW_UNSANDBOXED=1" in body["tests"]["reason"]
    assert undo(root.parent / "undo", body["undo"]) == ["src/a.py"]


async def test_the_tool_edits_cells(root: Path, maps_dir: Path) -> None:
    edits = [{"map": "boost_target", "row": 6, "column": 5, "value": 164}]
    result = await apply(root, maps_dir, cell_edits=edits)
    assert result.structured_content["files"] == [str(maps_dir / "boost_target.csv")]
    assert load_map(maps_dir, "boost_target").table[6][5] == 164


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"repo": "src"},
        {"patch": "", "cell_edits": []},
        {"patch": EDIT, "cell_edits": [{"map": "boost_target", "row": 0, "column": 0, "value": 1}]},
        {"repo": ".", "cell_edits": [{"map": "boost_target", "row": 0, "column": 0, "value": 1}]},
        {"cell_edits": [{"map": "boost_target", "row": -1, "column": 0, "value": 1}]},
        {"cell_edits": [{"map": "boost_target", "row": 0, "column": 0, "value": "high"}]},
    ],
)
async def test_wrong_arguments_change_nothing(
    root: Path, maps_dir: Path, arguments: dict[str, Any]
) -> None:
    before = snapshot(root), snapshot(maps_dir)
    result = await apply(root, maps_dir, **arguments)
    assert error_of(result)["code"] == "bad_arguments"
    assert (snapshot(root), snapshot(maps_dir)) == before


async def test_a_repository_outside_the_workspace_is_refused(root: Path, maps_dir: Path) -> None:
    for repo in ("..", "/etc", "src/../.."):
        result = await apply(root, maps_dir, repo=repo, patch=EDIT)
        assert error_of(result)["code"] == "outside_workspace"


def test_a_workspace_that_holds_the_saved_states_is_refused(root: Path) -> None:
    (root.parent / "link").symlink_to(root)
    for workspace in (root, root.parent, root.parent / "link"):
        with pytest.raises(SettingsError) as caught:
            server([workspace], root / "maps", root / "state" / "undo")
        assert caught.value.code == "state_in_workspace"


def test_a_patch_is_listed_and_taken_back_from_the_command_line(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STATE_DIR", str(root.parent))
    name = patch(root, EDIT)
    assert main(["list"]) == 0
    assert capsys.readouterr().out == f"{name}  src/a.py\n"
    assert main(["undo", name]) == 0
    assert (root / "src" / "a.py").read_text() == "one\ntwo\nthree\n"
    assert main(["undo", name]) == 1
    assert "python -m tools.workspace list" in capsys.readouterr().err
    assert main(["undo"]) == 2


def test_undo_needs_the_saved_state_before_the_change(root: Path, undo_dir: Path) -> None:
    """Where the undo cannot be saved, nothing changes."""
    undo_dir.write_text("a file where the folder should be")
    before = snapshot(root)
    with pytest.raises(VarietError):
        commit([Change(Place(root, ("src", "a.py")), b"one\ntwo\nthree\n", b"x")], undo_dir)
    assert snapshot(root) == before
