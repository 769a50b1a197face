import socket

import pytest

from cli.client import RESUME_ATTEMPTS, Client
from contracts.chat import ApprovalDecision, ChatRequest
from contracts.errors import Conflict, EngineError, Unavailable, VarietError
from tests.support.scripted_orchestrator import RUN, Scripted, end, sse

ASK = ChatRequest(message="hello")
FIRST = sse(1, "run", RUN)
TOKENS = [sse(n, "token", {"text": f"t{n} "}) for n in range(2, 6)]


def client_of(script: Scripted, key: str | None = None) -> Client:
    return Client(script.url, key, wait=lambda _: None)


def test_a_run_streams_up_to_its_end(orchestrator: Scripted) -> None:
    orchestrator.streams.append(FIRST + b"".join(TOKENS) + end(9))
    with client_of(orchestrator) as client:
        events = list(client.chat(ASK))
    assert [event.id for event in events] == [1, 2, 3, 4, 5, 9]
    assert events[-1].data["status"] == "completed"
    assert orchestrator.requests("POST", "/chat")[0].body["stream"] is True


def test_a_broken_stream_is_taken_up_after_the_last_event_that_arrived(
    orchestrator: Scripted,
) -> None:
    orchestrator.streams.append(FIRST + TOKENS[0] + TOKENS[1][:-9])
    orchestrator.streams.append(b"")
    orchestrator.streams.append(TOKENS[0] + TOKENS[1] + TOKENS[2] + end(9))
    with client_of(orchestrator) as client:
        events = list(client.chat(ASK))
    assert [event.id for event in events] == [1, 2, 3, 4, 9]
    resumed = orchestrator.requests("GET", "/runs/r1/events")
    assert [one.headers["last-event-id"] for one in resumed] == ["2", "2"]


def test_a_stream_that_stays_broken_is_an_error_that_names_the_run(orchestrator: Scripted) -> None:
    orchestrator.streams.extend([FIRST] + [b""] * (RESUME_ATTEMPTS + 1))
    with (
        client_of(orchestrator) as client,
        pytest.raises(Unavailable, match="run r1 broke") as error,
    ):
        list(client.chat(ASK))
    assert error.value.remedy.endswith("variet runs show r1")


def test_a_question_is_never_posted_twice(orchestrator: Scripted) -> None:
    orchestrator.streams.append(b"")
    with client_of(orchestrator) as client, pytest.raises(Unavailable, match="ended early"):
        list(client.chat(ASK))
    assert len(orchestrator.requests("POST", "/chat")) == 1


def test_an_unreadable_event_is_an_error(orchestrator: Scripted) -> None:
    orchestrator.streams.append(sse(1, "surprise", {}))
    with client_of(orchestrator) as client, pytest.raises(EngineError, match="surprise"):
        list(client.chat(ASK))


def test_an_error_envelope_becomes_the_error_of_its_status(orchestrator: Scripted) -> None:
    error = {"code": "decided", "message": "It is decided.", "remedy": "Nothing to do."}
    orchestrator.routes["POST /approvals/a1"] = (409, {"error": error})
    with client_of(orchestrator) as client, pytest.raises(Conflict) as raised:
        client.decide("a1", ApprovalDecision(decision="approve"))
    assert raised.value.body() == error


def test_another_program_at_the_address_is_said(orchestrator: Scripted) -> None:
    orchestrator.routes["GET /health"] = (500, {"oops": 1})
    with client_of(orchestrator) as client, pytest.raises(VarietError, match="not as Variet"):
        client.get("/health")


def test_nobody_there_says_how_to_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client:
        for call in (lambda: client.get("/health"), lambda: list(client.chat(ASK))):
            with pytest.raises(Unavailable, match="not running") as error:
                call()
            assert "make run" in error.value.remedy


def test_the_key_is_sent(orchestrator: Scripted) -> None:
    orchestrator.routes["GET /health"] = {}
    with client_of(orchestrator, "a-long-secret") as client:
        client.get("/health")
    assert orchestrator.seen[0].headers["authorization"] == "Bearer a-long-secret"
