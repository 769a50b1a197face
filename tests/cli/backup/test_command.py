"""`variet backup` and `variet restore` on one machine: a real stack, its state destroyed."""

import fcntl
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from cli.backup import command, state, tree, unfinished
from cli.backup.archive import Reader
from cli.client import Client
from cli.ingest import ingest_and_wait
from contracts.settings import REPOSITORY
from orchestrator.store.postgres import schema
from tests.cli.conftest import Variet
from tests.support.tiny_gguf import write_tiny_gguf


class Host:
    """A machine of its own: its folder, `.env` and state; `run` starts the stack there."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.env = folder / ".env"
        self.state = folder / "state"
        self.archive = folder / "backup.tar"
        self.model = folder / "tiny.gguf"
        for name in ("VARIET_ROLE", "VARIET_URL", "VARIET_API_KEY", "WORKSPACE_DIR"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("VARIET_ENV_FILE", str(self.env))
        monkeypatch.setenv("STATE_DIR", str(self.state))

    def fill(self) -> None:
        """State as a stack leaves it, made by hand."""
        (self.state / "workspace").mkdir(parents=True)
        (self.state / "workspace" / "notes.md").write_text("mine")
        for name, version in state.KNOWN.items():
            with sqlite3.connect(self.state / name) as db:
                db.executescript(f"CREATE TABLE t(x); PRAGMA user_version={version};")
            db.close()

    @contextmanager
    def run(self) -> Iterator[Client]:
        if not self.model.exists():
            write_tiny_gguf(self.model, mean_tokens=20)
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", "run", "--port", "0"],
            cwd=REPOSITORY,
            env={"PATH": "/usr/bin:/bin", "MODEL_ID": str(self.model), "COLUMNS": "200"}
            | {"STATE_DIR": str(self.state), "VARIET_ENV_FILE": str(self.env)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        try:
            found = None
            for line in process.stdout:
                if found := re.search(r"ready at (http://\S+)", line):
                    break
            assert found, process.communicate()[1]
            with Client(found[1]) as client:
                yield client
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


WRITE = {"operation": "write", "path": "from-the-approval.txt", "content": "approved"}


def work(client: Client) -> str:
    """Leave a document and an approval behind; the approval's id."""
    ingest_and_wait(client, {"text": "The quillwort grows in ponds.", "source": "plants"})
    asked = client.post("/tools/execute", {"name": "file_operations", "arguments": WRITE})
    return str(asked["approval"]["id"])


def goes_on(client: Client, approval: str, workspace: Path) -> None:
    """What `work` left is there, and can be gone on with."""
    found = client.get("/search", q="quillwort")["results"]
    assert [one["source"] for one in found][:1] == ["text:plants"]
    assert [one["id"] for one in client.get("/approvals")["items"]] == [approval]
    client.post(f"/approvals/{approval}", {"decision": "approve", "wait": True})
    assert (workspace / WRITE["path"]).read_text() == "approved"


def test_a_destroyed_state_comes_back_from_a_backup_made_while_the_stack_ran(
    host: Host, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    with host.run() as client:
        approval = work(client)
        assert variet("backup", str(host.archive)) == 0
        assert "while a stack works on it" in capsys.readouterr().out
        assert variet("restore", str(host.archive)) == 1
        assert "A Variet works on STATE_DIR=" in capsys.readouterr().err
        # It goes on after both, with the same state.
        assert [one["id"] for one in client.get("/approvals")["items"]] == [approval]
    shutil.rmtree(host.state)
    assert variet("restore", str(host.archive)) == 0
    with host.run() as client:
        goes_on(client, approval, host.state / "workspace")


def test_a_backup_of_a_stopped_stack_replaces_what_came_later(
    host: Host, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    with host.run() as client:
        approval = work(client)
    assert variet("backup", str(host.archive)) == 0
    assert "while a stack works on it" not in capsys.readouterr().out
    with host.run() as client:
        client.post(f"/approvals/{approval}", {"decision": "reject", "wait": True})
        client.delete("/ingest", source="text:plants")
        (host.state / "workspace" / "later.txt").touch()
    assert variet("restore", str(host.archive)) == 0
    assert not (host.state / "workspace" / "later.txt").exists()
    with host.run() as client:
        goes_on(client, approval, host.state / "workspace")


def test_settings_come_back_where_there_are_none_and_are_kept_where_there_are(
    host: Host, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    host.fill()
    host.env.write_text("VARIET_API_KEY=0123456789abcdef\n")
    assert variet("backup", str(host.archive)) == 0
    assert "It holds secrets" in capsys.readouterr().out
    host.env.unlink()
    assert variet("restore", str(host.archive)) == 0
    assert host.env.read_text() == "VARIET_API_KEY=0123456789abcdef\n"
    assert host.env.stat().st_mode & 0o777 == 0o600
    host.env.write_text("VARIET_API_KEY=fedcba9876543210\n")
    assert variet("restore", str(host.archive)) == 0
    assert host.env.read_text() == "VARIET_API_KEY=fedcba9876543210\n"
    assert "was kept; the backup's differs" in capsys.readouterr().out


def test_without_secrets_it_holds_none(
    host: Host, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    host.fill()
    host.env.write_text("VARIET_API_KEY=0123456789abcdef\n")
    assert variet("backup", str(host.archive), "--without-secrets") == 0
    told = capsys.readouterr().out
    assert "It holds secrets" not in told
    assert "not in it: .env" in told
    assert b"0123456789abcdef" not in host.archive.read_bytes()


def test_settings_that_were_put_back_go_again_when_the_rest_fails(
    host: Host, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    host.fill()
    host.env.write_text("VARIET_API_KEY=0123456789abcdef\n")
    assert variet("backup", str(host.archive)) == 0
    host.env.unlink()
    with (host.state / "stack.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert variet("restore", str(host.archive)) == 1
    assert "Nothing was changed" in capsys.readouterr().err
    assert not host.env.exists()


def rewritten(archive: Path, **changes: object) -> None:
    """The same archive with another manifest."""
    with tarfile.open(archive) as tar:
        names = tar.getnames()
        text = tar.extractfile("manifest.json")
        assert text
        manifest = json.loads(text.read()) | changes
    folder = archive.parent / "taken-apart"
    with tarfile.open(archive) as tar:
        # Python has the filter since 3.11.4.
        if hasattr(tarfile, "data_filter"):
            tar.extraction_filter = tarfile.data_filter
        tar.extractall(folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with tarfile.open(archive, "w") as tar:
        for name in names:
            tar.add(folder / name, name)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"schemas": {"variet.db": schema.SCHEMA_VERSION + 1}}, "schema version"),
        ({"schemas": {"postgres": schema.SCHEMA_VERSION + 1}}, "schema version"),
        ({"schemas": {"unheard.db": 1}}, "no such store"),
        ({"role": "hands"}, "role hands; this one is embedded"),
        ({"format": 2}, "format 2"),
    ],
)
def test_what_does_not_fit_here_is_refused_and_nothing_touched(
    host: Host,
    variet: Variet,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, object],
    told: str,
) -> None:
    host.fill()
    assert variet("backup", str(host.archive)) == 0
    rewritten(host.archive, **changes)
    (host.state / "workspace" / "notes.md").write_text("changed since")
    assert variet("restore", str(host.archive)) == 1
    said = capsys.readouterr().err
    assert told in said
    assert "Nothing was changed" in said
    assert (host.state / "workspace" / "notes.md").read_text() == "changed since"


@pytest.mark.parametrize(
    ("files", "told"),
    [(0, "No space left on device. Nothing was changed"), (1, "device. It is as it was before")],
)
def test_a_disk_that_fills_up_while_restoring_changes_nothing(
    host: Host,
    variet: Variet,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    files: int,
    told: str,
) -> None:
    host.fill()
    assert variet("backup", str(host.archive)) == 0
    (host.state / "workspace" / "notes.md").write_text("changed since")

    written: list[object] = []

    def full(file: object) -> None:
        written.append(file)
        if len(written) > files:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert variet("restore", str(host.archive)) == 1
    assert told in capsys.readouterr().err
    assert not unfinished.sign().exists()
    assert (host.state / "workspace" / "notes.md").read_text() == "changed since"
    assert not [path for path in host.state.iterdir() if path.name.startswith(".variet-")]


def test_a_state_that_never_holds_still_is_said(
    host: Host, monkeypatch: pytest.MonkeyPatch, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    host.fill()
    monkeypatch.setattr("cli.backup.tree.fingerprint", lambda _: "another each time")
    with (host.state / "stack.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert variet("backup", str(host.archive)) == 1
    assert "changed during each of 5 readings" in capsys.readouterr().err
    assert not host.archive.exists()


def test_a_state_that_holds_still_at_last_is_saved(
    host: Host, monkeypatch: pytest.MonkeyPatch, variet: Variet
) -> None:
    host.fill()
    real = tree.fingerprint
    told = iter(["another", "another"])
    monkeypatch.setattr(
        "cli.backup.tree.fingerprint", lambda folder: next(told, None) or real(folder)
    )
    with (host.state / "stack.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert variet("backup", str(host.archive)) == 0
    with Reader(host.archive) as reader:
        assert [part.name for part in reader.manifest.parts] == ["state.tar.gz"]


def test_an_archive_inside_of_what_it_copies_is_refused(
    host: Host, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    host.fill()
    assert variet("backup", str(host.state / "backup.tar")) == 1
    assert "lies in STATE_DIR" in capsys.readouterr().err


def test_what_is_kept_elsewhere_is_told(
    host: Host,
    variet: Variet,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    host.fill()
    monkeypatch.setenv("WORKSPACE_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("DATABASE_URL", "postgresql://variet:secret@db/variet")
    assert variet("backup", str(host.archive)) == 0
    told = capsys.readouterr().out
    assert f"not in it: WORKSPACE_DIR={tmp_path / 'mine'}" in told
    assert "not in it: the database of DATABASE_URL" in told
    assert "secret@" not in told
    with Reader(host.archive) as reader:
        assert "secret@" not in reader.manifest.model_dump_json()


def test_nobody_can_start_a_stack_on_a_state_that_is_being_restored(
    host: Host, variet: Variet, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.fill()
    assert variet("backup", str(host.archive)) == 0
    real = tree.unpack
    tried: list[int] = []

    def start_meanwhile(content: IO[bytes], folder: Path) -> None:
        unfinished.end()  # the lock has to do it by itself
        done = subprocess.run(
            [sys.executable, "-m", "cli", "run", "--port", "0"],
            cwd=REPOSITORY,
            capture_output=True,
        )
        tried.append(b"Another Variet works on STATE_DIR" in done.stderr)
        real(content, folder)

    monkeypatch.setattr("cli.backup.tree.unpack", start_meanwhile)
    assert variet("restore", str(host.archive)) == 0
    assert tried == [True]


def test_nobody_works_on_what_a_killed_restore_left_until_it_is_restored_again(
    host: Host,
    variet: Variet,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    host.fill()
    assert variet("backup", str(host.archive)) == 0
    (host.state / "workspace" / "notes.md").write_text("changed")

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(tree, "_swap", killed)
        patch.setattr(tree, "undo", killed)
        with pytest.raises(Killed):
            variet("restore", str(host.archive))
    capsys.readouterr()
    for words in (("run",), ("backup", str(host.archive.with_name("second.tar")))):
        assert variet(*words) == 1
        said = capsys.readouterr().err
        assert f"A restore of {host.archive} has not ended" in said
        assert "restore again" in said
    assert variet("restore", str(host.archive)) == 0
    assert (host.state / "workspace" / "notes.md").read_text() == "mine"
    assert variet("backup", str(host.archive.with_name("second.tar"))) == 0


def test_a_backup_knows_the_version_of_postgresqls_tables_without_a_driver() -> None:
    told = (
        "import sys; from cli.backup.command import KNOWN; print(KNOWN['postgres'],"
        " [name for name in sys.modules if name.startswith(('psycopg', 'qdrant_client'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", told], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.stdout == f"{len(schema.MIGRATIONS)} []\n", done.stderr


def test_the_default_name_tells_the_time() -> None:
    assert re.fullmatch(r"variet-backup-\d{8}-\d{6}\.tar", str(command._default_name()))
