"""The workstation's containers, saved and put back through a `docker compose` that records."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from cli.backup import tree, unfinished
from cli.backup.archive import Reader, Writer
from cli.backup.manifest import FORMAT, Manifest
from cli.backup.stack import Stack
from cli.compose import Compose, Container
from contracts.errors import BadRequest, Unavailable


class Recorded(Compose):
    """Answers as the containers would. `fail` names a word of the call that breaks."""

    def __init__(self, *services: str) -> None:
        self.words: list[str] = []
        self.fed: dict[str, bytes] = {}
        self.fail = ""
        self.running = dict.fromkeys(services, "running")
        self._names = list(services)
        self.databases = {"langfuse", "variet"}

    def call(self, *words: str, given: bytes | None = None, timeout_s: float | None = None) -> str:
        said = self._record(words)
        if "pg_database WHERE NOT" in said:
            return "langfuse|langfuse|UTF8\nvariet|variet|UTF8\n"
        if "SELECT 1 FROM pg_database" in said:
            return "1\n" if said.split("'")[-2] in self.databases else ""
        if "to_regclass" in said:
            return "t\n"
        if "max(version)" in said:
            return "1\n"
        if said.endswith(" list"):
            return json.dumps({"variet-docs": "variet-docs.0a1b2c3d"})
        if words[0] in ("stop", "start", "up"):
            for name in words[1:]:
                self.running[name] = "exited" if words[0] == "stop" else "running"
        return ""

    def read(self, *words: str, into: Any) -> None:
        said = self._record(words)
        if " pack " in said:
            into.write(self._volume())
        else:
            into.write(said.encode())

    def feed(self, *words: str, source: IO[bytes]) -> str:
        said = self._record(words)
        self.fed[said.split(" -- ")[-1]] = source.read()
        return json.dumps({"new": "variet-docs.new", "old": "variet-docs.0a1b2c3d"})

    def services(self, timeout_s: float | None = None) -> list[str]:
        return self._names

    def configuration(self) -> dict[str, Any]:
        state = {"type": "volume", "source": "state", "target": "/state"}
        bind = {"type": "bind", "source": "/home/me/workspace", "target": "/workspace"}
        data = {"type": "volume", "source": "postgres", "target": "/var/lib/postgresql/data"}
        return {
            "services": {
                "orchestrator": {"volumes": [state, bind]},
                "workspace": {"volumes": [bind]},
                "logs": {},
                "postgres": {"volumes": [data]},
            }
        }

    def containers(self, timeout_s: float | None = None) -> list[Container]:
        return [Container(name, state, "healthy", 0) for name, state in self.running.items()]

    def _record(self, words: tuple[str, ...]) -> str:
        source = next((word for word in words if "\n" in word), None)
        said = " ".join("SOURCE" if word is source else word for word in words)
        self.words.append(said)
        if self.fail and self.fail in said:
            raise Unavailable("docker_failed", f"{self.fail} broke.", "Mend it.")
        return said

    def _volume(self) -> bytes:
        out = io.BytesIO()
        tree.pack(self.folder, out)
        return out.getvalue()

    folder = Path()


Make = Callable[..., Recorded]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A stack of these services, by default the smallest."""

    monkeypatch.setenv("VARIET_ENV_FILE", str(tmp_path / "hands.env"))

    def of(*services: str) -> Recorded:
        compose = Recorded(*(services or ("orchestrator", "workspace", "logs", "postgres")))
        compose.folder = tmp_path / "volume"
        compose.folder.mkdir(exist_ok=True)
        (compose.folder / "ingest.db").write_text("queue")
        return compose

    return of


def saved(compose: Recorded, path: Path) -> Manifest:
    with Writer(path) as writer:
        schemas = Stack(compose, path.parent / "state", lambda _: None).save(writer)
        manifest = Manifest(
            format=FORMAT, variet="0", created="", role="hands", parts=writer.parts, schemas=schemas
        )
        writer.finish(manifest)
    return manifest


def restored(compose: Recorded, path: Path, tell: Callable[[str], None] = lambda _: None) -> None:
    with Reader(path) as reader:
        stack = Stack(compose, path.parent / "state", tell)
        stack.check(reader.manifest.parts)
        stack.restore(reader, reader.manifest.parts)


def verbs(compose: Recorded) -> list[str]:
    return [said for said in compose.words if said.split()[0] in ("stop", "start", "up")]


def test_databases_volumes_and_collections_are_saved_while_nobody_writes(
    make: Make, tmp_path: Path
) -> None:
    compose = make("orchestrator", "workspace", "logs", "postgres", "qdrant")
    manifest = saved(compose, tmp_path / "backup.tar")
    assert [(part.name, part.kind, part.of) for part in manifest.parts] == [
        ("postgres/langfuse.dump", "database", "langfuse"),
        ("postgres/variet.dump", "database", "variet"),
        ("volumes/state.tar.gz", "volume", "state"),
        ("qdrant/variet-docs.snapshot", "collection", "variet-docs"),
    ]
    assert manifest.schemas == {"postgres": 1}
    stopped = compose.words.index("stop orchestrator workspace")
    dumped = compose.words.index("exec -T postgres pg_dump -U postgres -Fc --dbname variet")
    started = compose.words.index("start workspace orchestrator")
    assert stopped < dumped < started == len(compose.words) - 1


def test_what_did_not_run_before_does_not_run_afterwards(make: Make, tmp_path: Path) -> None:
    compose = make()
    compose.running = {}
    saved(compose, tmp_path / "backup.tar")
    assert verbs(compose) == ["up --detach --wait postgres", "stop postgres"]


def test_a_backup_that_fails_starts_what_it_stopped(make: Make, tmp_path: Path) -> None:
    compose = make()
    compose.fail = "pg_dump"
    with pytest.raises(Unavailable):
        saved(compose, tmp_path / "backup.tar")
    assert verbs(compose)[-1] == "start workspace orchestrator"
    assert not (tmp_path / "backup.tar").exists()


def test_everything_is_put_back_and_what_was_there_goes_last(make: Make, tmp_path: Path) -> None:
    compose = make("orchestrator", "workspace", "logs", "postgres", "qdrant")
    saved(compose, tmp_path / "backup.tar")
    compose.words.clear()
    restored(compose, tmp_path / "backup.tar")
    said = compose.words
    assert said[0] == "stop orchestrator workspace logs"
    assert said[-1] == "up --detach --wait"
    assert any('ALTER DATABASE "variet_restoring" RENAME TO "variet"' in one for one in said)
    assert any('REVOKE ALL ON DATABASE "variet_restoring" FROM PUBLIC' in one for one in said)
    unpacked = next(i for i, one in enumerate(said) if " unpack /state" in one)
    loaded = next(i for i, one in enumerate(said) if " load variet-docs " in one)
    dropped = [i for i, one in enumerate(said) if one.endswith(" drop variet-docs.0a1b2c3d")]
    settled = [i for i, one in enumerate(said) if " settle /state" in one]
    gone = [i for i, one in enumerate(said) if 'IF EXISTS "variet_replaced"' in one][-1]
    assert unpacked < loaded < min(dropped[0], settled[0], gone)


def test_a_failure_puts_back_what_was_there_in_reverse(make: Make, tmp_path: Path) -> None:
    compose = make("orchestrator", "workspace", "logs", "postgres", "qdrant")
    saved(compose, tmp_path / "backup.tar")
    compose.words.clear()
    compose.fail = " load "
    with pytest.raises(Unavailable, match=r"load.* broke\. What was there before is back\."):
        restored(compose, tmp_path / "backup.tar")
    failed = next(i for i, one in enumerate(compose.words) if " load " in one)
    after = compose.words[failed + 1 :]
    undone = [one for one in after if " undo " in one or "RENAME" in one]
    assert " undo /state" in undone[0]
    assert 'ALTER DATABASE "variet_replaced" RENAME TO "variet"' in undone[2]
    assert 'ALTER DATABASE "langfuse_replaced" RENAME TO "langfuse"' in undone[4]
    for name in ("variet", "langfuse"):
        assert any(f'IF EXISTS "{name}_restoring"' in one for one in after)
    assert not any(" settle " in one for one in after)
    assert after[-1] == "up --detach --wait"


def test_a_database_that_cannot_change_places_keeps_its_name(make: Make, tmp_path: Path) -> None:
    compose = make()
    saved(compose, tmp_path / "backup.tar")
    compose.words.clear()
    compose.fail = '"variet_restoring" RENAME TO "variet"'
    with pytest.raises(Unavailable, match="is back"):
        restored(compose, tmp_path / "backup.tar")
    moves = [one.rpartition(" -qAtc ")[2] for one in compose.words if "RENAME" in one]
    assert moves[2:5] == [
        'ALTER DATABASE "variet" RENAME TO "variet_replaced"',
        'ALTER DATABASE "variet_restoring" RENAME TO "variet"',
        'ALTER DATABASE "variet_replaced" RENAME TO "variet"',
    ]


def test_a_database_that_a_killed_restore_left_under_its_other_name_is_found(
    make: Make, tmp_path: Path
) -> None:
    compose = make()
    saved(compose, tmp_path / "backup.tar")
    compose.words.clear()
    compose.databases = {"langfuse", "variet_replaced"}
    restored(compose, tmp_path / "backup.tar")
    moved = 'ALTER DATABASE "variet_replaced" RENAME TO "variet"'
    dropped = 'DROP DATABASE IF EXISTS "variet_replaced" WITH (FORCE)'
    said = [one.rpartition(" -qAtc ")[2] for one in compose.words]
    assert said.index(moved) < said.index(dropped)


def test_what_could_not_be_put_back_is_named(make: Make, tmp_path: Path) -> None:
    compose = make()
    saved(compose, tmp_path / "backup.tar")
    compose.fail = "/state"
    real = compose.call

    def call(*words: str, given: bytes | None = None, timeout_s: float | None = None) -> str:
        if '"langfuse_replaced" RENAME' in words[-1]:
            raise Unavailable("docker_failed", "PostgreSQL is gone.", "Start it.")
        return real(*words, given=given, timeout_s=timeout_s)

    compose.call = call  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="Not put back: database langfuse; what was there is"):
        restored(compose, tmp_path / "backup.tar")
    assert unfinished.sign().exists()
    assert verbs(compose)[-1] == "up --detach --wait postgres"  # and not all of it


def test_what_a_killed_restore_left_half_done_is_not_started_when_the_next_fails(
    make: Make, tmp_path: Path
) -> None:
    compose, path = make(), tmp_path / "backup.tar"
    saved(compose, path)
    compose.fail = "/state"
    with pytest.raises(Unavailable, match="What was there before is back"):
        restored(compose, path)
    assert not unfinished.sign().exists()
    assert verbs(compose)[-1] == "up --detach --wait"
    unfinished.begin(path)
    with pytest.raises(Unavailable, match=r"/state broke"):
        restored(compose, path)
    assert unfinished.sign().exists()
    assert verbs(compose)[-1] == "up --detach --wait postgres"
    compose.fail = ""
    restored(compose, path)
    assert not unfinished.sign().exists()
    assert verbs(compose)[-1] == "up --detach --wait"


def test_a_collection_without_its_store_is_told_and_left_out(make: Make, tmp_path: Path) -> None:
    saved(make("orchestrator", "workspace", "postgres", "qdrant"), tmp_path / "backup.tar")
    compose, told = make(), list[str]()
    restored(compose, tmp_path / "backup.tar", told.append)
    assert any("profile qdrant is not selected" in one for one in told)
    assert not any(" load " in one for one in compose.words)


def test_names_that_would_be_sql_are_refused_before_anything(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "backup.tar"
    with Writer(path) as writer:
        with writer.part(
            "postgres/x.dump", "database", 'x"; DROP DATABASE variet; --', {"owner": "variet"}
        ) as sink:
            sink.write(b"x")
        manifest = Manifest(format=FORMAT, variet="0", created="", role="hands", parts=writer.parts)
        writer.finish(manifest)
    compose = make()
    with pytest.raises(BadRequest, match="names the database"):
        restored(compose, path)
    assert compose.words == []


def test_a_volume_that_this_stack_does_not_have_is_refused(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "backup.tar"
    with Writer(path) as writer:
        with writer.part("volumes/other.tar.gz", "volume", "other") as sink:
            sink.write(make()._volume())
        manifest = Manifest(format=FORMAT, variet="0", created="", role="hands", parts=writer.parts)
        writer.finish(manifest)
    compose = make()
    with pytest.raises(BadRequest, match="no volume other"):
        restored(compose, path)
    assert compose.words == []


def test_what_is_not_saved_is_told_where_it_runs(make: Make, tmp_path: Path) -> None:
    small = Stack(make(), tmp_path, lambda _: None)
    large = Stack(make("postgres", "langfuse-web", "redis", "searxng"), tmp_path, lambda _: None)
    assert small.left_out == []
    assert any("traces" in one for one in large.left_out)
