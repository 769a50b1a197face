import ctypes
import json
import os
import random
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from contracts.errors import VarietError
from contracts.tools import FileResult
from tests.support.tool_errors import error_of
from tools.workspace.files import MAX_READ_BYTES, MAX_WRITE_BYTES, operate
from tools.workspace.paths import Workspace
from tools.workspace.server import changes_nothing, server

SECRET = "a secret outside"
AT_FDCWD = -100
RENAME_EXCHANGE = 2


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text(SECRET)
    root = tmp_path / "workspace"
    (root / "src").mkdir(parents=True)
    (root / "src" / "a.py").write_text("x = 1\n")
    return root


def do(
    root: Path, operation: str, path: str, content: str | None = None, to: str | None = None
) -> FileResult:
    return operate(Workspace([root]), operation, path, content, to)


def refusal(root: Path, operation: str, path: str, **more: str) -> VarietError:
    with pytest.raises(VarietError) as caught:
        do(root, operation, path, **more)
    assert caught.value.remedy
    return caught.value


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def exchange(a: Path, b: Path) -> None:
    """Swap what two names mean, at once."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert not libc.renameat2(AT_FDCWD, bytes(a), AT_FDCWD, bytes(b), RENAME_EXCHANGE)


async def test_the_tool_declares_what_it_may_do(root: Path) -> None:
    async with Client(server([root], root / "maps", root.parent / "undo")) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert {name: tool.description for name, tool in tools.items()} == {
        "file_operations": "List, read, write, move or delete files in the workspace.",
        "apply_patch": "Change calibration cells or apply a unified diff, then run the tests.",
        "run_tests": "Run pytest on a path in the workspace.",
    }
    for tool in tools.values():
        assert tool.annotations
        assert tool.annotations.read_only_hint is False
        assert tool.annotations.destructive_hint is True
        assert tool.output_schema
    assert tools["file_operations"].meta == {
        "variet/readonly_when": {"operation": ["list", "read"]}
    }


@pytest.mark.parametrize(
    ("operation", "reads"),
    [("list", True), ("read", True), ("write", False), ("move", False), ("delete", False)],
)
def test_only_listing_and_reading_change_nothing(operation: str, reads: bool) -> None:
    assert changes_nothing({"operation": operation}) is reads
    assert not changes_nothing({})


async def test_an_error_reaches_the_client_as_code_message_and_remedy(root: Path) -> None:
    async with Client(server([root], root / "maps", root.parent / "undo")) as client:
        result = await client.call_tool("file_operations", {"operation": "read", "path": "none"})
        unknown = await client.call_tool("file_operations", {"operation": "chmod", "path": "."})
    assert error_of(result)["code"] == "no_file"
    assert error_of(unknown)["code"] == "bad_arguments"


def test_files_are_written_read_listed_moved_and_deleted(root: Path) -> None:
    assert do(root, "write", "new/deep/b.txt", "grün\n").bytes == 6
    read = do(root, "read", "new/deep/b.txt")
    assert (read.content, read.bytes, read.truncated) == ("grün\n", 6, False)
    assert do(root, "move", "new/deep/b.txt", to="src/c.txt").to == "src/c.txt"
    entries = do(root, "list", "src").entries
    assert entries is not None
    assert [(entry.name, entry.kind, entry.bytes) for entry in entries] == [
        ("a.py", "file", 6),
        ("c.txt", "file", 6),
    ]
    do(root, "delete", "src/c.txt")
    do(root, "delete", "new/deep")
    assert not (root / "new" / "deep").exists()
    assert (root / "new").exists()


def test_the_root_is_listed_under_several_names(root: Path) -> None:
    for path in ("", ".", "./", "/".join([".", "."]), str(root)):
        entries = do(root, "list", path).entries
        assert entries is not None
        assert [entry.name for entry in entries] == ["src"]


def test_an_absolute_path_inside_a_root_is_understood(root: Path, tmp_path: Path) -> None:
    workspace = Workspace([root, tmp_path / "outside"])
    assert operate(workspace, "read", str(root / "src/a.py"), None, None).content == "x = 1\n"
    second = operate(workspace, "read", str(tmp_path / "outside/secret.txt"), None, None)
    assert second.content == SECRET


def test_a_write_replaces_the_whole_file_and_keeps_its_permissions(root: Path) -> None:
    (root / "src" / "a.py").chmod(0o750)
    before = (root / "src" / "a.py").stat().st_ino
    do(root, "write", "src/a.py", "y")
    status = (root / "src" / "a.py").stat()
    assert (root / "src" / "a.py").read_text() == "y"
    assert status.st_mode & 0o777 == 0o750
    assert status.st_ino != before
    assert names(root / "src") == ["a.py"]


def test_a_hard_link_to_the_outside_is_not_written_through(root: Path, tmp_path: Path) -> None:
    os.link(tmp_path / "outside" / "secret.txt", root / "link.txt")
    do(root, "write", "link.txt", "changed")
    assert (tmp_path / "outside" / "secret.txt").read_text() == SECRET


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("../outside/secret.txt", "outside_workspace"),
        ("../../outside/secret.txt", "outside_workspace"),
        ("src/../../outside/secret.txt", "outside_workspace"),
        ("src/..", "outside_workspace"),
        ("/etc/passwd", "outside_workspace"),
        ("//etc/passwd", "outside_workspace"),
        ("~/secret", "bad_path"),
        ("~root/.profile", "bad_path"),
        ("..\\outside\\secret.txt", "bad_path"),
        ("C:\\Windows\\win.ini", "bad_path"),
        ("C:/Windows/win.ini", "bad_path"),
        ("src/a.py\0.txt", "bad_path"),
        ("src/\u202eyp.a", "bad_path"),
        ("src/a\u200b.py", "bad_path"),
        ("src/\x1b[2Ja.py", "bad_path"),
        ("src/\ud800", "bad_path"),
        ("a" * 300, "bad_path"),
        ("a/" * 3000, "bad_path"),
        ("%2e%2e/outside/secret.txt", "no_file"),
        ("src/a.py.", "no_file"),
        ("SRC/a.py", "no_file"),
        ("src/a.py/b", "not_a_directory"),
        ("src", "is_directory"),
        (".", "is_directory"),
    ],
)
def test_traversal_is_refused(root: Path, path: str, code: str) -> None:
    error = refusal(root, "read", path)
    assert error.code == code
    assert SECRET not in str(error)
    assert error.message.isprintable()


def test_a_sibling_folder_with_the_same_start_is_outside(root: Path) -> None:
    evil = root.parent / "workspace-evil"
    evil.mkdir()
    assert refusal(root, "list", str(evil)).code == "outside_workspace"


@pytest.mark.parametrize("operation", ["read", "write", "move", "delete"])
def test_links_are_refused(root: Path, tmp_path: Path, operation: str) -> None:
    (root / "file").symlink_to(tmp_path / "outside" / "secret.txt")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "inside").symlink_to(root / "src")
    more = {"write": {"content": "x"}, "move": {"to": "elsewhere"}}.get(operation, {})
    for path in ("file", "folder/secret.txt", "inside/a.py"):
        assert refusal(root, operation, path, **more).code == "not_a_regular_file"
    assert (tmp_path / "outside" / "secret.txt").read_text() == SECRET
    assert refusal(root, "list", "folder").code == "not_a_regular_file"


def test_a_move_through_a_link_is_refused(root: Path) -> None:
    (root / "folder").symlink_to(root.parent / "outside")
    assert refusal(root, "move", "src/a.py", to="folder/a.py").code == "not_a_regular_file"
    assert (root / "src" / "a.py").exists()


def test_a_dangling_link_is_not_written_through(root: Path, tmp_path: Path) -> None:
    (root / "dangling").symlink_to(tmp_path / "outside" / "new.txt")
    assert refusal(root, "write", "dangling", content="x").code == "not_a_regular_file"
    assert not (tmp_path / "outside" / "new.txt").exists()


def test_links_are_listed_as_something_else(root: Path) -> None:
    (root / "link").symlink_to("/etc")
    entries = do(root, "list", ".").entries
    assert entries is not None
    assert [(entry.name, entry.kind) for entry in entries] == [
        ("link", "other"),
        ("src", "directory"),
    ]


@pytest.fixture
def special(root: Path) -> Iterator[Path]:
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        # The path of a socket is limited to about 100 bytes.
        here = Path.cwd()
        os.chdir(root)
        listener.bind("socket")
        os.chdir(here)
        yield root


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", ["fifo", "socket"])
def test_fifos_and_sockets_are_refused_without_waiting(special: Path, name: str) -> None:
    for operation in ("read", "write", "delete", "move"):
        more = {"write": {"content": "x"}, "move": {"to": "y"}}.get(operation, {})
        assert refusal(special, operation, name, **more).code == "not_a_regular_file"


@pytest.mark.timeout(10)
def test_devices_are_refused() -> None:
    error = refusal(Path("/dev"), "read", "zero")
    assert error.code == "not_a_regular_file"


def test_binary_files_are_refused(root: Path) -> None:
    (root / "a.bin").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (root / "b.bin").write_bytes(b"text\0text")
    (root / "c.txt").write_bytes("grün".encode("latin-1"))
    for name in ("a.bin", "b.bin", "c.txt"):
        assert refusal(root, "read", name).code == "binary_file"


def test_a_long_file_is_cut_between_letters_and_says_so(root: Path) -> None:
    (root / "long.txt").write_text("x" * (MAX_READ_BYTES - 1) + "ü" * 100)
    read = do(root, "read", "long.txt")
    assert read.truncated
    assert read.bytes == MAX_READ_BYTES - 1 + 200
    assert read.content == "x" * (MAX_READ_BYTES - 1)


def test_an_empty_file_is_read(root: Path) -> None:
    do(root, "write", "empty", "")
    assert do(root, "read", "empty").content == ""


def test_too_much_content_is_refused(root: Path) -> None:
    assert refusal(root, "write", "a", content="x" * (MAX_WRITE_BYTES + 1)).code == "too_large"
    assert refusal(root, "write", "a", content="\ud800").code == "bad_content"
    assert not (root / "a").exists()


@pytest.mark.parametrize(
    "path",
    [
        ".git/hooks/pre-commit",
        ".git",
        "src/.git/config",
        ".GIT/config",
        ".git /config",
        ".vscode/tasks.json",
        ".github/workflows/ci.yml",
        ".envrc",
        ".gitattributes",
    ],
)
def test_files_that_other_programs_run_are_not_written(root: Path, path: str) -> None:
    assert refusal(root, "write", path, content="x").code == "protected_path"
    assert refusal(root, "move", "src/a.py", to=path).code == "protected_path"
    assert refusal(root, "delete", path).code == "protected_path"
    assert not (root / path).exists()


def test_the_root_is_neither_moved_nor_deleted(root: Path) -> None:
    for operation, more in (("delete", {}), ("move", {"to": "x"}), ("write", {"content": ""})):
        refusal(root, operation, ".", **more)
    assert (root / "src" / "a.py").exists()


def test_a_move_never_overwrites(root: Path) -> None:
    (root / "b.py").write_text("kept")
    assert refusal(root, "move", "src/a.py", to="b.py").code == "exists"
    assert (root / "b.py").read_text() == "kept"
    assert (root / "src" / "a.py").exists()


def test_a_folder_is_moved_but_not_into_itself(root: Path) -> None:
    do(root, "move", "src", to="lib")
    assert (root / "lib" / "a.py").exists()
    assert refusal(root, "move", "lib", to="lib/inner/deep").code == "into_itself"
    assert [path.name for path in (root / "lib").iterdir()] == ["a.py"]


def test_a_move_that_fails_makes_no_folders(root: Path) -> None:
    assert refusal(root, "move", "missing.txt", to="new/deep/a.txt").code == "no_file"
    assert not (root / "new").exists()


def test_a_folder_with_entries_is_not_deleted(root: Path) -> None:
    error = refusal(root, "delete", "src")
    assert error.code == "file_error"
    assert "not empty" in error.message


def test_missing_and_unused_arguments_are_named(root: Path) -> None:
    assert "content" in refusal(root, "write", "a").message
    assert "to" in refusal(root, "move", "src/a.py").message
    assert "takes no content" in refusal(root, "read", "src/a.py", content="x").message
    assert do(root, "read", "src/a.py", content="", to="").content == "x = 1\n"


def test_names_that_are_no_text_are_listed_escaped(root: Path) -> None:
    os.close(os.open(os.fsencode(root) + b"/bad-\xff\x1b[2J", os.O_CREAT | os.O_WRONLY))
    entries = do(root, "list", ".").entries
    assert entries is not None
    assert entries[0].name == r"bad-\udcff\x1b[2J"
    json.dumps([entry.model_dump() for entry in entries]).encode()


def test_a_missing_root_is_an_error(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none", "list", ".").code == "no_workspace"


@pytest.mark.skipif(sys.platform != "linux", reason="exchanges two names by a Linux call")
@pytest.mark.timeout(30)
def test_swapping_a_folder_for_a_link_never_leads_outside(root: Path, tmp_path: Path) -> None:
    """A thread exchanges `src` and a link to the outside, atomically, at moments of no pattern.

    Both ways of each operation have to be met, so that the test cannot pass on luck alone: the
    swapper lingers between two exchanges, and the operations go on until all have gone well and
    been refused.
    """
    outside = tmp_path / "outside"
    (outside / "a.py").write_text(SECRET)
    (root / "link").symlink_to(outside)
    stop = threading.Event()
    moments = random.Random(7)

    def swap() -> None:
        while not stop.wait(moments.choice((0, 0, 0.0002, 0.002))):
            exchange(root / "src", root / "link")

    operations: dict[str, tuple[str, str | None, str | None]] = {
        "read": ("src/a.py", None, None),
        "write": ("src/b.py", "mine", None),
        "move": ("src/b.py", None, "src/c.py"),
        "delete": ("src/c.py", None, None),
    }
    met: dict[str, set[bool]] = {operation: set() for operation in operations}
    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        while not all(len(outcomes) == 2 for outcomes in met.values()):
            for operation, (path, content, to) in operations.items():
                try:
                    result = do(root, operation, path, content, to)
                except VarietError:
                    met[operation].add(False)
                else:
                    met[operation].add(True)
                    assert operation != "read" or result.content == "x = 1\n"
    finally:
        stop.set()
        swapper.join()
    assert names(outside) == ["a.py", "secret.txt"]
    assert (outside / "a.py").read_text() == SECRET


@pytest.mark.timeout(30)
def test_readers_never_see_a_half_written_file(root: Path) -> None:
    contents = ["a" * 200_000, "b" * 200_000]
    do(root, "write", "big", contents[0])
    stop = threading.Event()

    def write() -> None:
        turn: Any = 0
        while not stop.is_set():
            turn = 1 - turn
            do(root, "write", "big", contents[turn])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = {(root / "big").read_text() for _ in range(300)}
    finally:
        stop.set()
        writer.join()
    assert seen <= set(contents)
