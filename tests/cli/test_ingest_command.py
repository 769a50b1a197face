from pathlib import Path

import pytest

from tests.cli.conftest import Variet
from tests.support.scripted_orchestrator import Scripted

NOW = "2026-01-02T03:04:05Z"
JOB = {
    "job_id": "j1",
    "status": "done",
    "collection": "docs",
    "source": "notes",
    "files": 2,
    "chunks": 7,
    "created_at": NOW,
    "updated_at": NOW,
}
OUTSIDE = {"code": "outside", "message": "That is outside the workspace.", "remedy": "Move it."}


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "config").write_text("hidden")
    (folder / "one.md").write_text("# One")
    (folder / "two.bin").write_bytes(b"\xff\x00\xfe")
    return folder


def test_a_folder_is_named_to_the_orchestrator(
    orchestrator: Scripted, variet: Variet, notes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    orchestrator.routes |= {"POST /ingest": {"job_id": "j1"}, "GET /ingest/jobs/j1": JOB}
    assert variet("ingest", str(notes), "--collection", "manuals") == 0
    assert "notes: 2 files indexed (7 passages), 0 unchanged" in capsys.readouterr().out
    sent = orchestrator.requests("POST", "/ingest")[0].body
    assert sent == {"path": str(notes), "collection": "manuals"}


def test_what_the_orchestrator_may_not_read_is_sent_as_text(
    orchestrator: Scripted, variet: Variet, notes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    orchestrator.routes["POST /ingest"] = (403, {"error": OUTSIDE})
    assert variet("ingest", str(notes)) == 1
    bodies = [one.body for one in orchestrator.requests("POST", "/ingest")]
    text = {"text": "# One", "source": f"{notes}/one.md", "collection": "docs"}
    assert bodies == [{"path": str(notes), "collection": "docs"}, text]


def test_a_failed_job_says_why(
    orchestrator: Scripted, variet: Variet, notes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = JOB | {"status": "failed", "errors": [OUTSIDE]}
    orchestrator.routes |= {"POST /ingest": {"job_id": "j1"}, "GET /ingest/jobs/j1": failed}
    assert variet("ingest", str(notes)) == 1
    assert "That is outside the workspace." in capsys.readouterr().err


@pytest.mark.parametrize(("words", "said"), [((), "named"), (("nowhere",), "does not exist")])
def test_without_a_path_it_says_what_to_name(
    words: tuple[str, ...],
    said: str,
    orchestrator: Scripted,
    variet: Variet,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert variet("ingest", *words) == 1
    assert said in capsys.readouterr().err


def test_passages_are_shown_with_where_they_are(
    orchestrator: Scripted, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    citation = {"n": 1, "source": "one.md", "start_line": 3, "end_line": 5, "score": 0.5}
    found = {"text": "Boost is\x1b limited.", "source": "one.md", "score": 0.5}
    orchestrator.routes["GET /search"] = {"results": [found | {"citation": citation}]}
    assert variet("search", "boost", "--limit", "3") == 0
    assert "[1] one.md:3-5  0.500\nBoost is\\x1b limited.\n" in capsys.readouterr().out
    assert orchestrator.seen[0].path == "/search?q=boost&limit=3&collection=docs"
