"""Running pytest on a path of the workspace, in a process group of its own and under limits.

The tests are arbitrary code with the rights of whoever runs this. The limits keep an accident from
taking the machine down; they are no sandbox.
"""

import asyncio
import json
import os
import re
import sys
import tempfile
import xml.etree.ElementTree as ET
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from contracts.errors import BadRequest, Forbidden
from contracts.tools import TestRun, TestStatus
from tools.workspace.paths import Place, Workspace, kind_of, not_a_file, open_folder

SUPERVISOR = Path(__file__).with_name("supervisor.py")
MAX_FAILURES = 20
MAX_FAILURE_LETTERS = 300
MAX_REPORT_BYTES = 8 * 1024 * 1024
GRACE_S = 5.0
MARKERS = ("pytest.ini", ".pytest.ini", "pyproject.toml", "setup.cfg", "tox.ini", ".git")
# A file configures pytest only if it has this in it.
CONFIGURATIONS = (
    ("pytest.ini", ""),
    (".pytest.ini", ""),
    ("pyproject.toml", "[tool.pytest"),
    ("tox.ini", "[pytest]"),
    ("setup.cfg", "[tool:pytest]"),
)
NODE = re.compile(r"(::[\w\[\]., -]+)+")
UNPRINTABLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
UNSANDBOXED_REASON = (
    "There is no sandbox to run tests in. Set ALLOW_UNSANDBOXED=1 to run them on this machine."
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one test run may use. The memory, CPU and file limits hold for each process."""

    wall_s: float = 50
    cpu_s: int = 60
    memory_bytes: int = 4 * 1024**3
    file_bytes: int = 64 * 1024**2
    processes: int = 256
    output_bytes: int = 16 * 1024


def not_run(reason: str) -> TestRun:
    return TestRun(status="not_run", reason=reason)


def unsandboxed() -> Forbidden:
    """The refusal to run code while ALLOW_UNSANDBOXED is off."""
    return Forbidden(
        "unsandboxed",
        "run_tests executes code, and there is no sandbox for it.",
        "Set ALLOW_UNSANDBOXED=1 to run tests on this machine with your own rights.",
    )


def locate_tests(workspace: Workspace, text: str) -> tuple[Place, str]:
    """The file or folder that a path names and the test in it: `tests/test_a.py::test_b`."""
    path, mark, node = text.partition("::")
    if mark and not NODE.fullmatch(mark + node):
        raise BadRequest("bad_path", f"{node!r} is no test name.", "Use file.py::test_name.")
    place = workspace.locate(path)
    if not place.names:
        return place, mark + node
    with open_folder(place.parent) as folder:
        kind = kind_of(folder, place.name)
    if kind not in ("file", "directory"):
        raise not_a_file(place, kind)
    return place, mark + node


def project_of(place: Place) -> Place:
    """The nearest folder at or above a place that is a project, else the root."""
    here = place
    while here.names:
        if here.path.is_dir() and any((here.path / marker).exists() for marker in MARKERS):
            return here
        here = here.parent
    return here


async def run_pytest(place: Place, node: str = "", limits: Limits | None = None) -> TestRun:
    """Run the tests at a place. Cancelling it ends every process of the run."""
    limits = limits or Limits()
    project = project_of(place).path
    with tempfile.TemporaryDirectory(prefix="variet-tests-") as scratch:
        report = Path(scratch, "report.xml")
        command = _command(project, str(place.path) + node, report)
        outcome = await _supervise(command, project, scratch, limits)
        return _test_run(outcome, report, limits)


def _command(project: Path, target: str, report: Path) -> list[str]:
    return [
        sys.executable, "-m", "pytest", target,
        "-q", "--color=no", "--tb=short", "-p", "no:cacheprovider",
        f"--rootdir={project}", f"--confcutdir={project}", "-c", _configuration(project),
        f"--junitxml={report}", "-o", "junit_family=xunit1", "-o", "junit_logging=no",
    ]  # fmt: skip


def _configuration(project: Path) -> str:
    """The project's own pytest configuration, and never one of a folder above it."""
    for name, section in CONFIGURATIONS:
        with suppress(OSError, UnicodeDecodeError):
            if section in (project / name).read_text("utf-8"):
                return str(project / name)
    return os.devnull


def _environment(scratch: str) -> dict[str, str]:
    """No variable of ours is passed on: keys and tokens live there."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": scratch,
        "TMPDIR": scratch,
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        # Only pytest itself: plugins of our own environment are not the project's.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }


async def _supervise(
    command: list[str], project: Path, scratch: str, limits: Limits
) -> dict[str, Any]:
    specification = {
        "command": command,
        "folder": str(project),
        "environment": _environment(scratch),
        "wall_s": limits.wall_s,
        "cpu_s": limits.cpu_s,
        "memory_bytes": limits.memory_bytes,
        "file_bytes": limits.file_bytes,
        "processes": limits.processes,
        "output_bytes": limits.output_bytes,
        "scratch": scratch,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", str(SUPERVISOR), json.dumps(specification),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=_environment(scratch),
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        data = await process.stdout.read()
        await process.wait()
    finally:
        if process.returncode is None:
            # The supervisor ends the whole run when its input closes.
            process.stdin.close()
            with anyio.CancelScope(shield=True):
                await _ended(process)
    outcome: dict[str, Any] = json.loads(data) if data else {"code": None, "output": "", "ms": 0}
    return outcome


async def _ended(process: asyncio.subprocess.Process) -> None:
    try:
        async with asyncio.timeout(GRACE_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _test_run(outcome: dict[str, Any], report: Path, limits: Limits) -> TestRun:
    passed, failed, failures = _read_report(report)
    status, reason = _verdict(outcome, report.exists(), limits)
    return TestRun(
        status=status,
        passed=passed,
        failed=failed,
        failures=failures,
        reason=reason,
        ms=outcome["ms"],
        output=UNPRINTABLE.sub("", outcome["output"]),
    )


def _verdict(
    outcome: dict[str, Any], reported: bool, limits: Limits
) -> tuple[TestStatus, str | None]:
    code = outcome["code"]
    if outcome.get("timed_out"):
        return "timeout", f"The tests were ended after {limits.wall_s:g} s."
    if code is None:
        return "error", "The process that watches the tests was killed."
    if code < 0:
        return "error", f"pytest was killed by signal {-code}; a limit may have been reached."
    if code == 5:
        return "not_run", "No tests were found."
    if not reported:
        return "error", f"pytest ended with code {code} and without a report."
    if code > 1:
        return "error", f"pytest ended with code {code}; see the output."
    left = outcome.get("killed")
    reason = f"{left} processes were left running and were ended." if left else None
    return ("passed" if code == 0 else "failed"), reason


def _read_report(report: Path) -> tuple[int, int, list[str]]:
    """Passed, failed (errors included) and what failed, from pytest's JUnit file."""
    try:
        if report.stat().st_size > MAX_REPORT_BYTES:
            return 0, 0, []
        cases = list(ET.parse(report).iter("testcase"))
    except (OSError, ET.ParseError):
        return 0, 0, []
    passed, failures = 0, []
    for case in cases:
        wrong = case.find("failure") if case.find("failure") is not None else case.find("error")
        if wrong is not None:
            failures.append(_failure(case, wrong))
        elif case.find("skipped") is None:
            passed += 1
    return passed, len(failures), failures[:MAX_FAILURES]


def _failure(case: ET.Element, wrong: ET.Element) -> str:
    name = f"{case.get('file') or case.get('classname')}::{case.get('name')}"
    message = (wrong.get("message") or "").strip().split("\n")[0]
    return UNPRINTABLE.sub("", f"{name}: {message}")[:MAX_FAILURE_LETTERS]
