import io
from collections.abc import Callable, Iterator

import pytest
from rich.console import Console

from cli.chat import Conversation
from cli.client import Client
from tests.support.scripted_orchestrator import RUN, Scripted, approval, end, sse

FIRST = sse(1, "run", RUN)


class Keyboard:
    """Types lines one after the other, then ends the input. A KeyboardInterrupt is Ctrl-C."""

    def __init__(self, *lines: str | type[KeyboardInterrupt]) -> None:
        self._lines: Iterator[str | type[KeyboardInterrupt]] = iter(lines)
        self.prompts: list[str] = []

    def __call__(self, prompt: str) -> str:
        self.prompts.append(prompt)
        line = next(self._lines, None)
        if line is None:
            raise EOFError
        if not isinstance(line, str):
            raise line
        return line


Talk = Callable[..., str]


@pytest.fixture
def talk(orchestrator: Scripted) -> Talk:
    """Types the given lines into a conversation; returns what was on the screen."""

    def run(*lines: str | type[KeyboardInterrupt]) -> str:
        screen = Console(file=io.StringIO(), width=200)
        with Client(orchestrator.url, wait=lambda _: None) as client:
            Conversation(client, screen, Keyboard(*lines)).loop()
        assert isinstance(screen.file, io.StringIO)
        return screen.file.getvalue()

    return run


def test_messages_stay_on_their_thread_with_the_chosen_tier(
    orchestrator: Scripted, talk: Talk
) -> None:
    orchestrator.streams.extend([FIRST + sse(2, "token", {"text": "Hi!"}) + end(3)] * 2)
    shown = talk("hello", "/tier deep", "again", "/quit", "never said")
    first, second = (one.body for one in orchestrator.requests("POST", "/chat"))
    assert (first["message"], "thread_id" in first) == ("hello", False)
    assert (second["message"], second["thread_id"], second["tier"]) == ("again", "t1", "deep")
    assert shown.count("Hi!\n") == 2


def test_an_approval_is_asked_inline_and_the_run_goes_on(
    orchestrator: Scripted, talk: Talk
) -> None:
    asked = approval(operation="write", path="a.txt", content="x")
    orchestrator.streams.append(
        FIRST + sse(2, "approval", asked) + end(3, "awaiting_approval", approvals=[asked])
    )
    orchestrator.streams.append(sse(4, "token", {"text": "Written."}) + end(5))
    orchestrator.routes["POST /approvals/a1"] = {"run_id": "r1", "status": "running"}
    shown = talk("write it", "perhaps", "y")
    assert 'content = "x"' in shown
    assert "Written." in shown
    assert orchestrator.requests("POST", "/approvals/a1")[0].body["decision"] == "approve"
    assert orchestrator.requests("GET", "/runs/r1/events")[0].headers["last-event-id"] == "3"


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        (("n", "too long"), {"decision": "reject", "comment": "too long", "wait": False}),
        (("n", ""), {"decision": "reject", "wait": False}),
        (
            ("e", "not json", "e", '{"path": "b.txt"}'),
            {"decision": "edit", "arguments": {"path": "b.txt"}, "wait": False},
        ),
    ],
)
def test_an_approval_can_be_rejected_with_a_word_or_edited(
    orchestrator: Scripted, talk: Talk, typed: tuple[str, ...], sent: dict[str, object]
) -> None:
    asked = approval(path="a.txt")
    orchestrator.streams.append(FIRST + end(3, "awaiting_approval", approvals=[asked]))
    orchestrator.streams.append(end(5))
    orchestrator.routes["POST /approvals/a1"] = {"run_id": "r1", "status": "running"}
    talk("write it", *typed)
    assert orchestrator.requests("POST", "/approvals/a1")[0].body == sent


def test_an_approval_answered_elsewhere_is_said_and_the_run_followed(
    orchestrator: Scripted, talk: Talk
) -> None:
    asked = approval(path="a.txt")
    error = {"code": "decided", "message": "It was decided already.", "remedy": "Nothing to do."}
    orchestrator.streams.append(FIRST + end(3, "awaiting_approval", approvals=[asked]))
    orchestrator.streams.append(sse(4, "token", {"text": "Done."}) + end(5))
    orchestrator.routes["POST /approvals/a1"] = (409, {"error": error})
    shown = talk("write it", "y")
    assert "It was decided already." in shown
    assert "Done." in shown


def test_stop_at_an_approval_stops_the_run(orchestrator: Scripted, talk: Talk) -> None:
    asked = approval(path="a.txt")
    orchestrator.streams.append(FIRST + end(3, "awaiting_approval", approvals=[asked]))
    orchestrator.routes["POST /runs/r1/stop"] = {"run_id": "r1", "status": "stopped"}
    talk("write it", "/stop")
    assert len(orchestrator.requests("POST", "/runs/r1/stop")) == 1


def test_control_c_at_the_prompt_does_not_leave(orchestrator: Scripted, talk: Talk) -> None:
    orchestrator.streams.append(FIRST + sse(2, "token", {"text": "Still here."}) + end(3))
    assert "Still here." in talk(KeyboardInterrupt, "hello")


def test_control_c_while_it_answers_stops_the_run_and_not_the_conversation(
    orchestrator: Scripted, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    orchestrator.streams.append(FIRST + sse(2, "token", {"text": "A long"}) + end(3))
    orchestrator.streams.append(end(4, "stopped"))
    orchestrator.streams.append(FIRST + sse(2, "token", {"text": "Hello again."}) + end(3))
    orchestrator.routes["POST /runs/r1/stop"] = {"run_id": "r1", "status": "stopped"}
    interrupt_once = iter([True])

    from cli.show import RunPrinter

    original = RunPrinter.show

    def show(self: RunPrinter, event: object) -> None:
        original(self, event)  # type: ignore[arg-type]
        if getattr(event, "type", "") == "token" and next(interrupt_once, False):
            raise KeyboardInterrupt

    monkeypatch.setattr(RunPrinter, "show", show)
    shown = talk("tell me a story", "hello")
    assert len(orchestrator.requests("POST", "/runs/r1/stop")) == 1
    assert "stopped" in shown
    assert "Hello again." in shown


def test_threads_can_be_changed_and_commands_are_checked(
    orchestrator: Scripted, talk: Talk
) -> None:
    orchestrator.routes["GET /threads/t9"] = {"title": "Old talk"}
    orchestrator.streams.append(FIRST + end(2))
    shown = talk(
        "/thread", "/thread t9", "hello", "/thread new", "/tier huge", "/nonsense", "/stop"
    )
    assert "thread: none yet" in shown
    assert "thread t9: Old talk" in shown
    assert orchestrator.requests("POST", "/chat")[0].body["thread_id"] == "t9"
    assert "begins a new thread" in shown
    assert "/tier takes fast, balanced, deep" in shown
    assert "There is no /nonsense" in shown


def test_an_error_is_said_and_the_conversation_goes_on(orchestrator: Scripted, talk: Talk) -> None:
    error = {"code": "busy", "message": "The thread is busy.", "remedy": "Wait."}
    orchestrator.routes["POST /chat"] = (409, {"error": error})
    assert talk("hello", "hello").count("The thread is busy. Wait.") == 2
