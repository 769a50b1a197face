"""The conversation at a real terminal: what a person types while an answer streams."""

import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from threading import Event

import pytest

from contracts.settings import REPOSITORY
from tests.support.scripted_orchestrator import RUN, Scripted, end, sse

FIRST = sse(1, "run", RUN)
BEGUN = FIRST + sse(2, "token", {"text": "Once upon a time"})


class Terminal:
    """`variet chat` at a pseudo-terminal."""

    def __init__(self, url: str) -> None:
        self._master, slave = pty.openpty()
        self._shown = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cli", "chat", "--url", url],
            cwd=REPOSITORY,
            env=os.environ | {"TERM": "dumb", "COLUMNS": "200"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)

    def until(self, text: str) -> str:
        """What is shown up to and with `text`, since the last time."""
        while text not in self._shown:
            assert select.select([self._master], [], [], 20)[0], self._shown
            try:
                self._shown += os.read(self._master, 4096).decode("utf-8", "replace")
            except OSError as closed:
                raise AssertionError(self._shown) from closed
        before, _, self._shown = self._shown.partition(text)
        return before + text

    def type(self, text: str) -> None:
        os.write(self._master, f"{text}\n".encode())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal(orchestrator: Scripted) -> Iterator[Terminal]:
    orchestrator.routes["GET /threads"] = {"items": []}
    terminal = Terminal(orchestrator.url)
    yield terminal
    terminal.close()


def test_stop_typed_while_it_answers_stops_the_run(
    orchestrator: Scripted, terminal: Terminal
) -> None:
    stopped = Event()

    def stop() -> dict[str, str]:
        stopped.set()
        return {"run_id": "r1", "status": "stopped"}

    orchestrator.routes["POST /runs/r1/stop"] = stop
    orchestrator.streams.append([BEGUN, stopped, end(3, "stopped")])
    orchestrator.streams.append(FIRST + sse(2, "token", {"text": "Second answer."}) + end(3))
    terminal.until("you> ")
    terminal.type("tell me a story")
    terminal.until("Once upon a time")
    terminal.type("and another thing")
    terminal.type("/stop")
    terminal.until("stopped")
    terminal.until("Second answer.")
    terminal.type("/quit")
    assert terminal.process.wait(timeout=20) == 0
    messages = [one.body["message"] for one in orchestrator.requests("POST", "/chat")]
    assert messages == ["tell me a story", "and another thing"]


def test_control_c_while_it_answers_stops_the_run_and_the_prompt_comes_back(
    orchestrator: Scripted, terminal: Terminal
) -> None:
    never = Event()
    orchestrator.routes["POST /runs/r1/stop"] = {"run_id": "r1", "status": "stopped"}
    orchestrator.streams.append([BEGUN, never])
    orchestrator.streams.append(end(3, "stopped"))
    terminal.until("you> ")
    terminal.type("tell me a story")
    terminal.until("Once upon a time")
    terminal.process.send_signal(signal.SIGINT)
    terminal.until("stopped")
    terminal.until("you> ")
    never.set()
    terminal.type("/quit")
    assert terminal.process.wait(timeout=20) == 0
    assert len(orchestrator.requests("POST", "/runs/r1/stop")) == 1
