"""What a person reads who is asked to approve a call."""

from typing import Any

import pytest

from orchestrator.agent.effects import declared_effect, effect

EDIT = {"row": 0, "column": 1, "value": 2.0}
DIFF = """\
--- a/boost/control.py
+++ b/boost/control.py
@@ -1 +1 @@
-a
+b
--- /dev/null
+++ b/boost/new.py
@@ -0,0 +1 @@
+c
--- a/boost/old.py
+++ /dev/null
@@ -1 +0,0 @@
-d
"""


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        (
            "apply_patch",
            {"cell_edits": [EDIT | {"map": "boost_target"}]},
            "apply_patch changes 1 cell of map boost_target",
        ),
        (
            "apply_patch",
            {"cell_edits": [EDIT | {"map": m} for m in "aabcde"]},
            "apply_patch changes 6 cells of maps a, b, c and 2 more",
        ),
        (
            "apply_patch",
            {"repo": "src", "patch": DIFF},
            "apply_patch changes the file boost/control.py, creates the file boost/new.py,"
            " deletes the file boost/old.py in src",
        ),
        (
            "file_operations",
            {"operation": "write", "path": "notes.txt", "content": "äb"},
            "file_operations writes 3 bytes to notes.txt, over what is there",
        ),
        (
            "file_operations",
            {"operation": "move", "path": "a", "to": "b"},
            "file_operations moves a to b",
        ),
        ("file_operations", {"operation": "delete", "path": "a"}, "file_operations deletes a"),
        (
            "run_tests",
            {},
            "run_tests executes the test code of the whole workspace on this machine",
        ),
        ("run_tests", {"path": "t"}, "run_tests executes the test code of t on this machine"),
    ],
)
def test_a_call_of_our_tools_is_told_by_its_arguments(
    tool: str, arguments: dict[str, Any], said: str
) -> None:
    assert effect("workspace", tool, arguments) == said


@pytest.mark.parametrize(
    ("server", "tool", "arguments"),
    [
        ("other", "run_tests", {}),
        ("workspace", "unheard_of", {}),
        ("workspace", "apply_patch", {"patch": "no diff"}),
        ("workspace", "apply_patch", {"cell_edits": 5}),
        ("workspace", "file_operations", {"operation": 5}),
    ],
)
def test_of_what_is_not_known_nothing_is_said(
    server: str, tool: str, arguments: dict[str, Any]
) -> None:
    assert effect(server, tool, arguments) is None


def test_of_others_only_what_they_declare_is_told() -> None:
    assert declared_effect("send", True, True) == (
        "send may destroy or overwrite something, perhaps on other systems"
    )
    assert declared_effect("add", False, False) == "add changes something"


def test_a_name_can_neither_break_the_line_nor_fill_the_screen() -> None:
    name = "a\nApproved\x1b[2K\u202e" + "x" * 500
    said = effect("workspace", "file_operations", {"operation": "delete", "path": name}) or ""
    assert said.isprintable()
    assert len(said) < 120
