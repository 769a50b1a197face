"""`variet chat`: a conversation at the terminal."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rich.console import Console

from cli import show
from cli.address import connect
from cli.approve import AtTerminal
from cli.client import Client
from cli.show import RunPrinter, line
from cli.text import exact
from cli.turn import Turn, failure
from cli.typing_ahead import TypedAhead
from contracts.chat import ENDED, ChatRequest, ChatResponse
from contracts.errors import VarietError

TIERS = ("fast", "balanced", "deep")
HELP = """\
/stop          stop the run that is going on; Ctrl-C does the same
/tier NAME     fast, balanced or deep; without a name: the model's own choice
/thread ID     go on with another thread; /thread new begins one; alone: shows this one
/quit          leave; Ctrl-D does the same
Anything else is said to the assistant."""


class Conversation:
    """The prompt loop. It ends at /quit or end of input; Ctrl-C stops the run, not the loop."""

    def __init__(
        self,
        client: Client,
        console: Console,
        read: Callable[[str], str],
        thread: str | None = None,
        tier: str | None = None,
    ) -> None:
        self._client = client
        self._console = console
        self._read = read
        self._thread = thread
        self._tier: Any = tier
        self._run: str | None = None
        self._ahead: list[str] = []

    def loop(self) -> None:
        while True:
            try:
                text = self._ahead.pop(0) if self._ahead else self._read("you> ")
            except EOFError:
                line(self._console, "")
                return
            except KeyboardInterrupt:
                line(self._console, "\n/quit or Ctrl-D leaves.", "dim")
                continue
            if text.strip() in ("/quit", "/exit"):
                return
            try:
                self._obey(text.strip())
            except VarietError as error:
                line(self._console, f"{exact(error.message)} {exact(error.remedy)}", "red")

    def _obey(self, text: str) -> None:
        word, _, argument = text.partition(" ")
        match word:
            case "":
                return
            case "/stop":
                self._stop()
            case "/tier":
                self._choose_tier(argument.strip())
            case "/thread":
                self._choose_thread(argument.strip())
            case "/help" | "/?":
                line(self._console, HELP)
            case _ if word.startswith("/") and word[1:].isalpha():
                line(self._console, f"There is no {exact(word)}. /help lists what there is.", "red")
            case _:
                self._say(text)

    def _say(self, text: str) -> None:
        request = ChatRequest(message=text, thread_id=self._thread, tier=self._tier, stream=True)
        printer = RunPrinter(self._console)
        turn = Turn(self._client, printer, AtTerminal(self._console, self._read, self._client.stop))

        def stop() -> None:
            # What was typed before the run began stops nothing.
            if turn.run_id:
                with suppress(VarietError):
                    self._client.stop(turn.run_id)

        with TypedAhead(self._ahead, stop, lambda: turn.deciding):
            try:
                response = turn.ask(request)
            except KeyboardInterrupt:
                if turn.run_id is None:
                    line(self._console, "\nNothing had begun.", "dim")
                    return
                printer.note("stopping …")
                self._client.stop(turn.run_id)
                response = turn.resume(turn.run_id)
        self._thread, self._run = response.thread_id, response.run_id
        self._conclude(response, printer.error_shown)

    def _conclude(self, response: ChatResponse, said: bool) -> None:
        show.citations(self._console, response)
        if response.status == "stopped":
            line(self._console, "stopped", "yellow")
        elif response.status == "awaiting_approval":
            ids = " ".join(one.id for one in response.approvals if one.status == "pending")
            line(self._console, f"left open: variet approvals answer {ids} approve", "yellow")
        elif response.status == "failed" and not said:
            line(self._console, failure(response), "red")
        line(self._console, f"{exact(response.model)} · thread {response.thread_id}", "dim")

    def _stop(self) -> None:
        state = self._client.get(f"/runs/{self._run}")["status"] if self._run else None
        if self._run is None or state in ENDED:
            line(self._console, "Nothing is running.", "dim")
            return
        self._client.stop(self._run)
        line(self._console, f"Stopped run {self._run}.", "yellow")

    def _choose_tier(self, name: str) -> None:
        if name and name not in TIERS:
            line(self._console, f"/tier takes {', '.join(TIERS)}, or nothing.", "red")
            return
        self._tier = name or None
        line(self._console, f"tier: {name or 'as the assistant chooses'}", "dim")

    def _choose_thread(self, name: str) -> None:
        if name and name != "new":
            title = self._client.get(f"/threads/{name}")["title"]
            self._thread = name
            line(self._console, f"thread {name}: {exact(title)}", "dim")
        elif name:
            self._thread = None
            line(self._console, "The next message begins a new thread.", "dim")
        else:
            line(self._console, f"thread: {self._thread or 'none yet'}", "dim")


def chat(url: str | None, thread: str | None, tier: str | None) -> None:
    console = Console()
    with suppress(ImportError):
        import readline  # noqa: F401  line editing and history at the prompt
    with connect(url) as client:
        client.get("/threads", limit=1)  # says now, not at the first message, what is wrong
        line(console, f"Variet at {client.url}. /help lists commands, Ctrl-D leaves.", "dim")
        Conversation(client, console, input, thread, tier).loop()
