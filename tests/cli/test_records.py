import json

import pytest

from tests.cli.conftest import Variet
from tests.support.scripted_orchestrator import Scripted, approval, response

NOW = "2026-01-02T03:04:05Z"
CALL = {"id": "c1", "name": "get_map", "arguments": {"key": "ve"}, "status": "finished"}
RUN = {
    "id": "r1",
    "thread_id": "t1",
    "status": "completed",
    "created_at": NOW,
    "updated_at": NOW,
    "message": "Look at ve",
    "response": response(
        answer="It is fine.",
        latency_ms=1200,
        tool_calls=[CALL | {"result": {"key": "ve"}, "ms": 3}],
        usage={"prompt_tokens": 10, "completion_tokens": 4},
    ),
    "stages": [{"name": "tool", "ms": 3.2, "detail": "get_map"}],
}
THREAD = {"id": "t1", "title": "About ve", "created_at": NOW, "updated_at": NOW}


def test_runs_are_listed(
    orchestrator: Scripted, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    orchestrator.routes["GET /runs"] = {"items": [RUN]}
    assert variet("runs", "list", "--limit", "5") == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown == [
        "run  status     when                 took   message",
        "r1   completed  2026-01-02 03:04:05  1.2 s  Look at ve",
    ]
    assert orchestrator.seen[0].path == "/runs?limit=5"


def test_a_run_is_shown_with_calls_tokens_and_stages(
    orchestrator: Scripted, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    orchestrator.routes["GET /runs/r1"] = RUN
    assert variet("runs", "show", "r1") == 0
    out = capsys.readouterr().out
    for part in ('get_map key="ve"', "It is fine.", "10 in, 4 out", "tool get_map  3 ms"):
        assert part in out


def test_a_raw_run_prints_each_engine_call(
    orchestrator: Scripted, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    exchange = {"n": 1, "request": '{"messages": []}', "response": "data: {}", "ms": 8.0}
    orchestrator.routes["GET /runs/r1"] = RUN
    orchestrator.routes["GET /runs/r1/exchanges"] = {"items": [exchange]}
    assert variet("runs", "show", "r1", "--raw") == 0
    out = capsys.readouterr().out
    assert '{"messages": []}\n' in out
    assert "data: {}\n" in out
    assert variet("runs", "show", "r1", "--raw", "--json") == 0
    assert json.loads(capsys.readouterr().out)["exchanges"] == [exchange]


def test_an_unknown_run_is_an_error_with_a_remedy(
    orchestrator: Scripted, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    error = {"code": "unknown_run", "message": "There is no run 'r9'.", "remedy": "See GET /runs."}
    orchestrator.routes["GET /runs/r9"] = (404, {"error": error})
    assert variet("runs", "show", "r9") == 1
    assert capsys.readouterr().err == "error: There is no run 'r9'.\n  See GET /runs.\n"


def test_threads_are_listed_shown_and_pruned(
    orchestrator: Scripted, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = [
        {"role": "user", "content": "Look at ve", "run_id": "r1"},
        {"role": "tool", "content": "{\x1b}", "run_id": "r1", "tool_call_id": "c1"},
    ]
    orchestrator.routes |= {
        "GET /threads": {"items": [THREAD]},
        "GET /threads/t1": THREAD | {"messages": messages},
        "DELETE /threads": {"deleted": 2},
    }
    assert variet("threads", "list") == 0
    assert variet("threads", "show", "t1") == 0
    assert variet("threads", "prune", "--older-than", "30") == 0
    out = capsys.readouterr().out
    assert "t1      2026-01-02 03:04:05  About ve" in out
    assert "{\\x1b}" in out
    assert "Deleted 2 threads that were idle for 30 days." in out
    assert orchestrator.seen[-1].path == "/threads?older_than_days=30.0"


def test_approvals_are_listed_and_answered(
    orchestrator: Scripted, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    orchestrator.routes["GET /approvals"] = {"items": [approval(path="a.txt")]}
    orchestrator.routes["POST /approvals/a1"] = response(answer="Written.")
    assert variet("approvals", "list") == 0
    assert 'path = "a.txt"' in capsys.readouterr().out
    edited = '{"path": "b.txt"}'
    assert variet("approvals", "answer", "a1", "edit", "--arguments", edited) == 0
    assert "Written." in capsys.readouterr().out
    sent = orchestrator.requests("POST", "/approvals/a1")[0].body
    assert sent == {"decision": "edit", "arguments": {"path": "b.txt"}, "wait": True}


@pytest.mark.parametrize("words", [(), ("--arguments", "[1]"), ("--arguments", "@nowhere.json")])
def test_an_edit_needs_an_object_of_arguments(
    words: tuple[str, ...],
    orchestrator: Scripted,
    variet: Variet,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert variet("approvals", "answer", "a1", "edit", *words) == 1
    assert "--arguments" in capsys.readouterr().err
    assert orchestrator.seen == []


def test_a_rejected_run_that_failed_is_an_error(
    orchestrator: Scripted, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    orchestrator.routes["POST /approvals/a1"] = response("stopped")
    assert variet("approvals", "answer", "a1", "reject", "--comment", "no") == 1
    assert "The run ended as stopped" in capsys.readouterr().err
