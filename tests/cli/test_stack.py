"""The whole stack, started for real: every part a process, the model a tiny random one."""

import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.client import Client
from cli.supervise import SAMPLES
from contracts.settings import REPOSITORY
from tests.support.tiny_gguf import write_tiny_gguf

pytestmark = pytest.mark.skipif(
    not hasattr(os, "pidfd_open"), reason="watching processes end needs Linux's pidfd"
)
PARTS = {"services.engine", "cli.tether", "index_process"}


def descendants(pid: int) -> dict[int, str]:
    """Processes below `pid`, with their command lines."""
    listed = subprocess.run(
        ["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    found: dict[int, str] = {}
    below = {pid}
    while below:
        children = {int(p): args for p, parent, args in rows if int(parent) in below}
        found |= children
        below = set(children)
    return found


class Variet:
    """`variet run` as a process of its own."""

    def __init__(self, state: Path, model: Path, port: int = 0) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("VARIET_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cli", "run", "--port", str(port), "--state-dir", str(state)],
            cwd=REPOSITORY,
            env=environment | {"MODEL_ID": str(model), "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> str:
        """Wait until it says where it serves; the address."""
        assert self.process.stdout
        for line in self.process.stdout:
            if found := re.search(r"ready at (http://\S+)", line):
                return found[1]
        raise AssertionError(self.end()[1])

    def parts(self) -> dict[int, int]:
        """Its parts' process ids, each with a handle that becomes readable when it ends."""
        found = descendants(self.process.pid)
        assert {name for name in PARTS if any(name in args for args in found.values())} == PARTS
        return {pid: os.pidfd_open(pid) for pid in found}

    def end(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=40)
        return self.process.returncode, errors


def all_end(handles: dict[int, int], seconds: float) -> bool:
    """Whether every process ends in time."""
    waiting = select.poll()
    for handle in handles.values():
        waiting.register(handle, select.POLLIN)
    left = len(handles)
    while left:
        ended = waiting.poll(seconds * 1_000)
        if not ended:
            return False
        for handle, _ in ended:
            waiting.unregister(handle)
            os.close(handle)
        left -= len(ended)
    return True


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    write_tiny_gguf(path, mean_tokens=20)
    return path


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def variet(state: Path, model: Path) -> Iterator[Variet]:
    running = Variet(state, model)
    yield running
    if running.process.poll() is None:
        running.process.kill()
    running.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_and_a_signal_stops_every_part(
    variet: Variet, state: Path, number: signal.Signals
) -> None:
    url = variet.ready()
    with Client(url) as client:
        # Every part answers; the index may be starting still, for as long as the test may take.
        while client.get("/health")["checks"]["index"]["status"] == "down":
            assert variet.process.poll() is None
    handles = variet.parts()
    variet.process.send_signal(number)
    assert variet.end() == (0, "")
    assert all_end(handles, seconds=1)
    seeded = {path.name for path in (state / "workspace").iterdir()}
    assert seeded == {path.name for path in SAMPLES.iterdir()}


def test_signals_that_follow_the_first_do_not_disturb_the_stop(variet: Variet) -> None:
    variet.ready()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGHUP) * 50:
        variet.process.send_signal(number)
    assert variet.end() == (0, "")


def test_killed_outright_it_leaves_no_orphan(variet: Variet) -> None:
    variet.ready()
    handles = variet.parts()
    variet.process.kill()
    assert all_end(handles, seconds=20)


def test_a_second_one_on_the_same_state_is_refused(
    variet: Variet, state: Path, model: Path
) -> None:
    variet.ready()
    status, errors = Variet(state, model).end()
    assert status == 1
    assert f"Another Variet works on STATE_DIR={state}" in errors


def test_a_part_that_cannot_start_takes_the_others_down(state: Path, model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        running = Variet(state, model, port)
        status, errors = running.end()
    assert status == 1
    assert f"PORT={port}" in errors
    assert "Its log says more" in errors
    listed = subprocess.run(
        ["ps", "-ww", "-eo", "args="], capture_output=True, text=True, check=True
    )
    assert str(state.parent) not in listed.stdout


def test_the_orchestrator_ending_by_itself_is_an_error(variet: Variet) -> None:
    variet.ready()
    handles = variet.parts()
    (orchestrator,) = (
        pid for pid, args in descendants(variet.process.pid).items() if "cli.tether" in args
    )
    os.kill(orchestrator, signal.SIGKILL)
    status, errors = variet.end()
    assert status == 1
    assert "The orchestrator ended by itself" in errors
    assert all_end(handles, seconds=10)


def test_a_model_that_is_not_there_is_said_at_once(state: Path, tmp_path: Path) -> None:
    status, errors = Variet(state, tmp_path / "nowhere.gguf").end()
    assert status == 1
    assert "nowhere.gguf" in errors
