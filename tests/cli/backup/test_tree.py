"""A state folder in a stream: what goes in comes out, and nothing else gets anywhere."""

import io
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from cli.backup import tree
from cli.backup.tree import Damaged


def packed(folder: Path, live: bool = False) -> io.BytesIO:
    out = io.BytesIO()
    tree.pack(folder, out, live)
    out.seek(0)
    return out


def holds(folder: Path) -> dict[str, str]:
    """Files, links and folders below, each with what it is."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_dir():
            found[name] = "folder"
        else:
            found[name] = f"{path.stat().st_mode & 0o777:o} {path.read_bytes()[:40]!r}"
    return found


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    (folder / "workspace" / "empty").mkdir(parents=True)
    script = folder / "workspace" / "run.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o750)
    (folder / "workspace" / "link").symlink_to("run.sh")
    (folder / "workspace" / "away").symlink_to("/nowhere")
    os.link(script, folder / "workspace" / "second-name.sh")
    (folder / "index" / "docs").mkdir(parents=True)
    (folder / "index" / "docs" / "wal").write_bytes(bytes(300_000) + b"end" + bytes(300_000))
    for name in ("variet.db", "journal.db"):
        with sqlite3.connect(folder / name) as db:
            db.executescript("PRAGMA journal_mode=WAL; CREATE TABLE t(x);")
            db.execute("INSERT INTO t VALUES (?)", (name,))
        db.close()
    return folder


def test_a_folder_comes_back_as_it_was(state: Path, tmp_path: Path) -> None:
    before = holds(state)
    stream = packed(state)
    tree.unpack(stream, tmp_path / "new")
    tree.settle(tmp_path / "new")
    assert holds(tmp_path / "new") == before
    wal = (tmp_path / "new/index/docs/wal").stat()
    assert (wal.st_size, wal.st_blocks * 512 < 300_000) == (600_003, True)


def test_an_empty_folder_comes_back_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    stream = packed(tmp_path / "empty")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "variet.db").touch()
    tree.unpack(stream, tmp_path / "full")
    tree.settle(tmp_path / "full")
    assert holds(tmp_path / "full") == {}


def test_models_logs_and_locks_are_neither_packed_nor_replaced(state: Path, tmp_path: Path) -> None:
    for name in ("models", "hub", "logs"):
        (state / name).mkdir()
        (state / name / "file").write_text(name)
    (state / "stack.lock").touch()
    stream = packed(state)
    target = tmp_path / "target"
    (target / "models").mkdir(parents=True)
    (target / "models" / "kept").write_text("kept")
    tree.unpack(stream, target)
    tree.settle(target)
    assert {path.name for path in target.iterdir()} == {
        "models", "workspace", "index", "variet.db", "journal.db"
    }  # fmt: skip
    assert (target / "models" / "kept").read_text() == "kept"


def test_a_database_that_is_written_to_is_copied_whole(state: Path, tmp_path: Path) -> None:
    db = sqlite3.connect(state / "variet.db", isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    db.execute("INSERT INTO t VALUES ('not yet committed')")
    stream = packed(state, live=True)
    db.execute("COMMIT")
    db.close()
    tree.unpack(stream, tmp_path / "new")
    copy = sqlite3.connect(tmp_path / "new" / "variet.db")
    assert copy.execute("SELECT x FROM t").fetchall() == [("variet.db",)]
    copy.close()
    assert not list((tmp_path / "new").glob("*-wal"))
    assert not list(state.glob(f"{tree.OURS}*"))


def test_a_change_between_two_readings_is_noticed(state: Path) -> None:
    first = tree.pack(state, io.BytesIO(), live=True)
    assert tree.fingerprint(state) == first
    (state / "index" / "docs" / "new").touch()
    assert tree.fingerprint(state) != first


def test_what_is_replaced_can_be_put_back(state: Path, tmp_path: Path) -> None:
    before = holds(state)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "variet.db").write_text("another")
    tree.unpack(packed(tmp_path / "other"), state)
    assert (state / "variet.db").read_text() == "another"
    assert not (state / "workspace").exists()
    tree.undo(state)
    assert holds(state) == before


def test_a_restore_that_was_killed_between_its_steps_is_undone_by_the_next(
    state: Path, tmp_path: Path
) -> None:
    before = holds(state)
    aside = state / tree.REPLACED
    aside.mkdir()
    (state / "variet.db").rename(aside / "variet.db")
    (state / tree.RESTORED).mkdir()
    with pytest.raises(Damaged):
        tree.unpack(io.BytesIO(b"nonsense"), state)
    assert holds(state) == before


def test_what_a_killed_restore_replaced_does_not_come_back_over_later_work(
    state: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "variet.db").write_text("restored")
    stream = packed(tmp_path / "other")
    tree.unpack(stream, state)  # and killed before `settle`
    (state / "variet.db").write_text("worked on since")
    with pytest.raises(Damaged):
        tree.unpack(io.BytesIO(b"nonsense"), state)
    assert holds(state) == {"variet.db": "644 b'worked on since'"}


def test_a_failure_in_the_middle_leaves_the_folder_as_it_was(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = holds(state)
    stream = packed(state)
    real, count = Path.rename, 0

    def fail_later(path: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == 6:
            raise OSError(28, "No space left on device")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", fail_later)
    with pytest.raises(OSError, match="No space"):
        tree.unpack(stream, state)
    assert count > 6  # the moves back
    assert holds(state) == before


@pytest.mark.parametrize("length", [0, 10, 200, -40, -1])
def test_a_stream_that_is_cut_short_changes_nothing(state: Path, length: int) -> None:
    before = holds(state)
    text = packed(state).getvalue()
    with pytest.raises(Damaged):
        tree.unpack(io.BytesIO(text[:length]), state)
    assert holds(state) == before


def crafted(*members: tuple[str, bytes, str]) -> io.BytesIO:
    """Members of (name, type, target of a link)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, kind, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, 0
            tar.addfile(info)
    out.seek(0)
    return out


FILE, LINK, HARD, FIFO = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ([("../escaped", FILE, "")], "leads out"),
        ([("a/../../escaped", FILE, "")], "leads out"),
        ([("/tmp/escaped", FILE, "")], "leads out"),
        ([(".", tarfile.DIRTYPE, "")], "leads out"),
        ([("a", LINK, "/tmp"), ("a/escaped", FILE, "")], "goes through a link"),
        ([("a", LINK, ".."), ("a/b/escaped", FILE, "")], "goes through a link"),
        ([("a", FILE, ""), ("a", FILE, "")], "there twice"),
        ([("a", HARD, "/etc/passwd")], "neither a file"),
        ([("a", FIFO, "")], "neither a file"),
        ([("models/evil.gguf", FILE, "")], "not part of a backup"),
        ([(f"{tree.REPLACED}/x", FILE, "")], "not part of a backup"),
    ],
)
def test_a_crafted_stream_gets_nowhere(
    members: list[tuple[str, bytes, str]], told: str, tmp_path: Path
) -> None:
    target = tmp_path / "inner" / "state"
    target.mkdir(parents=True)
    (target / "variet.db").write_text("mine")
    for read in (tree.check, lambda stream: tree.unpack(stream, target)):
        with pytest.raises(Damaged, match=told):
            read(crafted(*members))
    assert holds(tmp_path) == {
        "inner": "folder",
        "inner/state": "folder",
        "inner/state/variet.db": "644 b'mine'",
    }


def test_it_runs_by_itself_as_it_does_in_a_container(state: Path, tmp_path: Path) -> None:
    """There, only the standard library is at hand, and the source comes as an argument."""
    source = Path(tree.__file__).read_text("utf-8")

    def call(*words: str, given: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            [sys.executable, "-I", "-S", "-c", source, *words], input=given, capture_output=True
        )

    stream = call("pack", str(state)).stdout
    target = str(tmp_path / "volume")
    assert call("unpack", target, given=stream).returncode == 0
    assert call("settle", target).returncode == 0
    assert holds(Path(target)) == holds(state)
    refused = call("unpack", target, given=b"nonsense")
    assert refused.returncode == 1
    assert b"cut short or garbled" in refused.stderr
    assert holds(Path(target)) == holds(state)


def test_a_folder_that_goes_meanwhile_is_left_to_the_next_reading(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    (folder / "index" / "segment").mkdir(parents=True)
    (folder / "index" / "segment" / "data").write_text("x")
    walk = tree._files(folder, live=True)
    assert [next(walk)[1], next(walk)[1]] == ["index", "index/segment"]
    shutil.rmtree(folder / "index" / "segment")
    assert list(walk) == []
