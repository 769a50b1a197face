import asyncio
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from contracts import tools
from contracts.errors import VarietError
from tests.support.tool_errors import error_of
from tools.workspace.paths import Place, Workspace
from tools.workspace.server import server
from tools.workspace.testing import Limits, locate_tests, project_of, run_pytest

SAMPLES = Path(__file__).parents[2] / "data" / "samples"
QUICK = Limits(wall_s=20)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "workspace"
    root.mkdir()
    return root


async def outcome_of(root: Path, code: str, limits: Limits = QUICK) -> tools.TestRun:
    (root / "test_it.py").write_text(code)
    return await run_pytest(Place(root, ("test_it.py",)), limits=limits)


async def until(condition: Any, seconds: float = 10) -> None:
    """Wait until a condition holds, looking again every 20 ms."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 (another process makes it true)
            await anyio.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def test_passed_and_failed_tests_are_counted_and_named(root: Path) -> None:
    run = await outcome_of(
        root,
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 1 == 2, 'one is not two'\n"
        "@pytest.fixture\n"
        "def broken(): raise ValueError('no fixture')\n"
        "def test_setup(broken): pass\n"
        "@pytest.mark.skip\n"
        "def test_skipped(): pass\n",
    )
    assert (run.status, run.passed, run.failed) == ("failed", 1, 2)
    assert run.failures[0].startswith("test_it.py::test_bad: AssertionError: one is not two")
    assert "no fixture" in run.failures[1]
    assert run.ms > 0
    assert "1 failed" in run.output


async def test_all_tests_passing_is_passed(root: Path) -> None:
    run = await outcome_of(root, "def test_good(): pass\n")
    assert (run.status, run.passed, run.failed, run.failures) == ("passed", 1, 0, [])


async def test_a_file_that_cannot_be_imported_is_an_error_that_says_why(root: Path) -> None:
    run = await outcome_of(root, "import nothing_of_this_name\n")
    assert run.status == "error"
    assert "nothing_of_this_name" in run.output


async def test_no_tests_is_not_run(root: Path) -> None:
    run = await outcome_of(root, "x = 1\n")
    assert (run.status, run.reason) == ("not_run", "No tests were found.")


async def test_leaving_without_a_report_is_no_success(root: Path) -> None:
    run = await outcome_of(root, "import os\ndef test_a(): os._exit(0)\n")
    assert run.status == "error"
    assert run.reason
    assert "without a report" in run.reason


async def test_time_is_limited_even_against_ignored_signals(root: Path) -> None:
    run = await outcome_of(
        root,
        "import signal, time\n"
        "def test_a():\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    print('begun', flush=True)\n"
        "    time.sleep(60)\n",
        Limits(wall_s=1.5),
    )
    assert (run.status, run.reason) == ("timeout", "The tests were ended after 1.5 s.")
    assert run.ms < 10_000


async def test_memory_is_limited(root: Path) -> None:
    code = "def test_a():\n    block = bytearray(3 * 1024**3)\n"
    run = await outcome_of(root, code, Limits(wall_s=20, memory_bytes=1024**3))
    assert run.status == "failed"
    assert "MemoryError" in run.failures[0]


async def test_cpu_time_is_limited(root: Path) -> None:
    run = await outcome_of(
        root, "def test_a():\n    while True: pass\n", Limits(wall_s=20, cpu_s=1)
    )
    assert run.status == "error"
    assert run.reason
    assert "signal" in run.reason


async def test_file_size_is_limited(root: Path) -> None:
    run = await outcome_of(
        root,
        "def test_a(tmp_path):\n    (tmp_path / 'big').write_bytes(b'x' * 10_000_000)\n",
        Limits(wall_s=20, file_bytes=1_000_000),
    )
    assert run.status == "failed"
    assert "File too large" in run.failures[0]


async def test_output_keeps_its_beginning_and_end(root: Path) -> None:
    run = await outcome_of(
        root,
        "import sys, os\n"
        "def test_a(capfd):\n"
        "    with capfd.disabled():\n"
        "        print('the beginning')\n"
        "        for _ in range(200): os.write(1, b'\\x1b[31mnoise \\xff\\x00' * 1000)\n",
    )
    assert run.status == "passed"
    assert len(run.output) < 20_000
    assert "the beginning" in run.output
    assert "bytes left out" in run.output
    assert run.output.endswith("s\n")
    assert "\x1b" not in run.output
    assert "\x00" not in run.output


async def test_nothing_of_our_environment_is_passed_on(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VARIET_API_KEY", "canary-7141")
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", "canary-7141")
    run = await outcome_of(
        root,
        "import os, pathlib\n"
        "def test_a():\n"
        "    assert 'canary-7141' not in str(dict(os.environ))\n"
        "    parent = pathlib.Path(f'/proc/{os.getppid()}/environ').read_bytes()\n"
        "    assert b'canary-7141' not in parent\n"
        "    assert pathlib.Path.home() != pathlib.Path('/root')\n",
    )
    assert run.status == "passed", run.output


async def test_standard_input_is_empty(root: Path) -> None:
    run = await outcome_of(root, "import sys\ndef test_a(): assert not sys.__stdin__.read()\n")
    assert run.status == "passed", run.output


DAEMON = """\
import os, pathlib, subprocess, sys, time
def test_a(request):
    # A double fork with a session of its own, as daemons do.
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            pathlib.Path(r"{pid}").write_text(str(os.getpid()))
            time.sleep(120)
        os._exit(0)
    os.waitpid(child, 0)
    while not pathlib.Path(r"{pid}").exists() or not pathlib.Path(r"{pid}").read_text():
        time.sleep(0.01)
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    {more}
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds orphans through /proc")
async def test_a_double_forked_daemon_does_not_outlive_its_test(root: Path, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    run = await outcome_of(root, DAEMON.format(pid=pid, more=""))
    assert run.status == "passed", run.output
    assert run.reason == "2 processes were left running and were ended."
    assert not is_alive(int(pid.read_text()))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds orphans through /proc")
async def test_cancelling_ends_the_whole_run(root: Path, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    task = asyncio.create_task(
        outcome_of(root, DAEMON.format(pid=pid, more="time.sleep(120)"), Limits(wall_s=100))
    )
    await until(lambda: pid.exists() and pid.read_text())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not is_alive(int(pid.read_text()))


async def test_a_client_that_gives_up_ends_the_whole_run(root: Path, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    (root / "test_it.py").write_text(DAEMON.format(pid=pid, more="time.sleep(120)"))
    async with Client(server([root], root, tmp_path / "undo", True)) as client:
        task = asyncio.create_task(client.call_tool("run_tests", {}))
        await until(lambda: pid.exists() and pid.read_text())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: not is_alive(int(pid.read_text())))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes through /proc")
async def test_a_killed_parent_ends_the_whole_run(root: Path, tmp_path: Path) -> None:
    """kill -9 of whoever asked for the tests; the supervisor sees its input close."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    pid = tmp_path / "pid"
    (root / "test_it.py").write_text(DAEMON.format(pid=pid, more="time.sleep(120)"))
    program = (
        "import asyncio, pathlib, sys\n"
        "from tools.workspace.paths import Place\n"
        "from tools.workspace.testing import run_pytest\n"
        f"asyncio.run(run_pytest(Place(pathlib.Path({str(root)!r}), ('test_it.py',))))\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cwd=SAMPLES.parents[1],
        env=os.environ | {"TMPDIR": str(temporary)},
    )  # fmt: skip
    await until(lambda: pid.exists() and pid.read_text(), 20)
    assert list(temporary.iterdir())
    process.kill()
    await process.wait()
    await until(lambda: not is_alive(int(pid.read_text())))
    await until(lambda: not list(temporary.iterdir()))


async def test_a_configuration_above_the_workspace_is_not_used(root: Path) -> None:
    (root.parent / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    run = await outcome_of(root, "def test_good(): pass\n")
    assert run.status == "passed", run.output


async def test_the_project_s_own_configuration_is_used(root: Path) -> None:
    project = root / "project"
    (project / "tests").mkdir(parents=True)
    (project / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\npython_functions = ["check_*"]\npythonpath = ["."]\n'
    )
    (project / "helper.py").write_text("x = 1\n")
    (project / "tests" / "test_it.py").write_text("import helper\ndef check_it(): pass\n")
    place = Place(root, ("project", "tests"))
    assert project_of(place) == Place(root, ("project",))
    run = await run_pytest(place, limits=QUICK)
    assert (run.status, run.passed) == ("passed", 1), run.output


async def test_a_file_named_like_an_option_is_a_file(root: Path) -> None:
    (root / "--version").mkdir()
    (root / "--version" / "test_it.py").write_text("def test_a(): pass\n")
    place, node = locate_tests(Workspace([root]), "--version")
    run = await run_pytest(place, node, QUICK)
    assert (run.status, run.passed) == ("passed", 1), run.output


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("../x", "outside_workspace"),
        ("/etc", "outside_workspace"),
        ("none.py", "no_file"),
        ("link", "not_a_regular_file"),
        ("test_it.py::a;b", "bad_path"),
        ("test_it.py::", "bad_path"),
    ],
)
def test_what_is_no_test_in_the_workspace_is_refused(root: Path, path: str, code: str) -> None:
    (root / "test_it.py").write_text("")
    (root / "link").symlink_to(root.parent)
    with pytest.raises(VarietError) as caught:
        locate_tests(Workspace([root]), path)
    assert caught.value.code == code


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(SAMPLES, tmp_path / "samples", ignore=ignored))


def client_of(workspace: Path, allow_unsandboxed: bool) -> Client:
    maps_dir, undo_dir = workspace / "maps", workspace.parent / "undo"
    return Client(server([workspace], maps_dir, undo_dir, allow_unsandboxed, QUICK))


async def test_without_permission_no_code_runs(workspace: Path) -> None:
    marker = workspace.parent / "ran"
    (workspace / "conftest.py").write_text(f"open({str(marker)!r}, 'w')\n")
    async with client_of(workspace, allow_unsandboxed=False) as client:
        result = await client.call_tool("run_tests", {"path": "tests"})
    error = error_of(result)
    assert error["code"] == "unsandboxed"
    assert "ALLOW_UNSANDBOXED=1" in error["remedy"]
    assert not marker.exists()


async def test_correcting_the_sample_map_makes_its_test_pass(workspace: Path) -> None:
    edits = [
        {"map": "boost_target", "row": 3, "column": 8, "value": 177},
        {"map": "boost_target", "row": 6, "column": 5, "value": 164},
    ]
    async with client_of(workspace, allow_unsandboxed=True) as client:
        before = await client.call_tool("run_tests", {})
        patched = await client.call_tool("apply_patch", {"cell_edits": edits})
    assert before.structured_content["status"] == "failed"
    assert [name.split(": ")[0] for name in before.structured_content["failures"]] == [
        "tests/test_maps.py::test_boost_target_rises_with_the_throttle"
    ]
    assert patched.structured_content["tests"]["status"] == "passed"
    assert patched.structured_content["files"] == ["maps/boost_target.csv"]


async def test_one_test_is_run_by_its_name(workspace: Path) -> None:
    name = "tests/test_controller.py::test_low_boost_raises_the_duty"
    async with client_of(workspace, allow_unsandboxed=True) as client:
        result = await client.call_tool("run_tests", {"path": name})
    body = result.structured_content
    assert (body["status"], body["passed"]) == ("passed", 1)


async def test_two_runs_at_once_do_not_disturb_each_other(workspace: Path) -> None:
    started = time.monotonic()
    async with client_of(workspace, allow_unsandboxed=True) as client:
        results = await asyncio.gather(
            *(client.call_tool("run_tests", {"path": "tests/test_controller.py"}) for _ in "ab")
        )
    assert [result.structured_content["passed"] for result in results] == [5, 5]
    assert time.monotonic() - started < 20
