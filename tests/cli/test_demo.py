"""The demo as a newcomer starts it, with a scripted engine in place of a model."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contracts.settings import REPOSITORY
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripted_reply import script

EDIT = {"map": "boost_target", "row": 3, "column": 8, "value": 177}
ANOMALY = {
    "row": 3,
    "column": 8,
    "at": "2500 rpm, 90 %",
    "value": 131,
    "expected": 177,
    "unit": "kPa",
}
REPORT = {
    "summary": "One cell is off.",
    "anomalies": [ANOMALY],
    "suggested_patch": {"cell_edits": [EDIT]},
    "next_action": "Apply the patch.",
}
QUESTION = script(
    {"tool_calls": [{"name": "get_map", "arguments": {"key": "boost_target"}}]},
    {"text": "At 2500 rpm and 90 % the target is 131 kPa instead of 177 kPa."},
    {"json": REPORT},
)
WRITE = {"operation": "write", "path": "new.txt", "content": "x"}
WRITING = script(
    {"tool_calls": [{"name": "file_operations", "arguments": WRITE}]},
    {"text": "It was rejected."},
    {"json": REPORT | {"anomalies": [], "suggested_patch": None}},
)


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    async with ScriptedEngine() as engine:
        yield engine


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def demo(url: str, tmp_path: Path, question: str) -> tuple[int | None, str, str]:
    given = {
        "OPENAI_COMPAT_URL": url,
        "MODEL_ID": "scripted",
        "TMPDIR": str(tmp_path),
        "VARIET_INSTALL_SECONDS": "12",
        "COLUMNS": "200",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", "demo", "--", question),
        cwd=REPOSITORY,
        env=os.environ | given,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_it_shows_the_whole_run_and_leaves_nothing_behind(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    status, out, err = await demo(engine.url, tmp_path, QUESTION)
    assert (status, err) == (0, "")
    for part in (
        "installation  12 s",
        f"scripted, served at {engine.url}.",
        "passages indexed",
        '▸ get_map key="boost_target"',
        '→ key: "boost_target" · unit: "kPa"',
        "At 2500 rpm and 90 % the target is 131 kPa instead of 177 kPa.",
        "2500 rpm, 90 %  3    8       131    177       kPa",
        "boost_target[row 3, column 8] = 177",
        "Next action: Apply the patch.",
        "tool get_map",
        "all stopped",
    ):
        assert part in out
    assert out.count("▸ get_map") == 1
    assert names_in(tmp_path) == []


async def test_what_it_would_change_is_rejected_and_said(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    status, out, _ = await demo(engine.url, tmp_path, WRITING)
    assert status == 0
    assert "Approval needed: file_operations" in out
    assert "rejected: the demo runs unattended" in out
    assert "It was rejected." in out


async def test_a_failing_step_is_one_line_with_its_remedy(tmp_path: Path) -> None:
    status, _, err = await demo("http://127.0.0.1:9/v1", tmp_path, QUESTION)
    assert status == 1
    assert err.startswith("Demo failed while starting the stack: OPENAI_COMPAT_URL=")
    assert "Start that server or correct the URL" in err
    assert len(err.splitlines()) == 1
    assert names_in(tmp_path) == []
