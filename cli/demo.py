"""`variet demo`: start everything, ask one question over HTTP, show all of it, stop everything."""

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.rule import Rule

from cli import show
from cli.approve import RejectAloud
from cli.client import Client
from cli.ingest import ingest_and_wait
from cli.show import RunPrinter, line
from cli.stack import Running, Stack
from cli.supervise import running, settings_for
from cli.text import duration, exact
from cli.turn import Turn, failure
from contracts.chat import ChatRequest, ChatResponse, RunView
from contracts.errors import EngineError, VarietError
from contracts.report import Report

QUESTION = "Summarize anomalies in boost_target map"
NOBODY = "the demo runs unattended and changes nothing; `make run` and `variet chat` ask you"


class Demo:
    """One demo on a state folder of its own. `step` names what is going on, for the error."""

    def __init__(self, question: str, console: Console) -> None:
        self._question = question
        self._console = console
        self.step = "preparing"

    def play(self) -> None:
        began = time.monotonic()
        folder = Path(tempfile.mkdtemp(prefix="variet-demo-"))
        try:
            self._play(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._fact("total", f"{_installation() + time.monotonic() - began:.1f} s, all stopped")

    def _play(self, folder: Path) -> None:
        self.step = "starting the stack"
        self._fact("installation", _installation_text())
        settings = settings_for(state_dir=folder, own_workspace=True, port=0)
        with running(Stack(settings)) as served:
            stack = served.stack
            self._introduce(stack)
            with Client(stack.url, stack.key) as client:
                self.step = "indexing the sample documents"
                self._index(client, settings.workspace / "docs")
                self.step = "asking the question"
                response, seconds = self._ask(client)
                self.step = "reading the run's record"
                self._account(client, response, stack, seconds)
            self.step = "stopping the stack"

    def _introduce(self, stack: Running) -> None:
        self._fact("start-up", f"{stack.seconds:.1f} s, orchestrator at {stack.url}")
        self._fact("model", stack.model.sentence)
        if stack.withheld:
            self._fact("withheld", f"{', '.join(stack.withheld)} (not evaluated with this model)")

    def _index(self, client: Client, folder: Path) -> None:
        began = time.monotonic()
        job = ingest_and_wait(client, {"path": str(folder)})
        took = time.monotonic() - began
        self._fact("documents", f"{job.files} files, {job.chunks} passages indexed in {took:.1f} s")

    def _ask(self, client: Client) -> tuple[ChatResponse, float]:
        self._rule("question")
        line(self._console, exact(self._question), "bold")
        reject = RejectAloud(self._console, NOBODY)
        turn = Turn(client, RunPrinter(self._console, stages=True), reject)
        request = ChatRequest(
            message=self._question, stream=True, response_schema=Report.model_json_schema()
        )
        began = time.monotonic()
        response = turn.ask(request)
        seconds = time.monotonic() - began
        if response.status != "completed":
            error = response.error
            raise EngineError(
                error.code if error else "run_not_completed",
                error.message if error else failure(response),
                error.remedy if error else "Try again; `variet doctor` checks each part.",
            )
        self._rule("structured result")
        show.report(self._console, Report.model_validate(response.structured))
        show.citations(self._console, response)
        return response, seconds

    def _account(
        self, client: Client, response: ChatResponse, stack: Running, seconds: float
    ) -> None:
        self._rule("account")
        run = RunView.model_validate(client.get(f"/runs/{response.run_id}"))
        usage = response.usage
        self._fact("tokens", f"{usage.prompt_tokens} in, {usage.completion_tokens} out")
        stages = " · ".join(
            f"{exact(stage.name)}{_of(stage.detail)} {duration(stage.ms)}" for stage in run.stages
        )
        self._fact("stages", stages or "none recorded")
        self._fact("answered by", f"{exact(response.model)}: {stack.model.sentence}")
        self._fact(
            "times",
            f"installation {_installation_text()}, start-up {stack.seconds:.1f} s,"
            f" question {seconds:.1f} s",
        )

    def _fact(self, name: str, text: str) -> None:
        line(self._console, f"{name:<13} ", "bold", end="")
        line(self._console, text)

    def _rule(self, title: str) -> None:
        self._console.print(Rule(title, style="dim", align="left"))


def demo(question: str) -> int:
    """Returns the exit status; on failure one line has said what failed and how to mend it."""
    console = Console()
    play = Demo(question.strip() or QUESTION, console)
    try:
        play.play()
    except VarietError as error:
        text = f"Demo failed while {play.step}: {exact(error.message)} {exact(error.remedy)}"
        line(Console(stderr=True), " ".join(text.split()), "red")
        return 1
    return 0


def _installation() -> float:
    try:
        return float(os.environ.get("VARIET_INSTALL_SECONDS", "0"))
    except ValueError:
        return 0.0


def _installation_text() -> str:
    if "VARIET_INSTALL_SECONDS" not in os.environ:
        return "not measured (make demo measures it)"
    seconds = _installation()
    return f"{seconds:.0f} s" if seconds >= 1 else "there already"


def _of(detail: Any) -> str:
    return f" {exact(str(detail))}" if detail else ""
