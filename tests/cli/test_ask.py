import json
from pathlib import Path

import pytest

from tests.cli.conftest import Variet
from tests.support.scripted_orchestrator import RUN, Scripted, approval, end, sse

FIRST = sse(1, "run", RUN)
CALL = {"id": "c1", "name": "get_map", "arguments": {"key": "boost_target"}, "status": "running"}
RESULT = CALL | {"status": "finished", "result": {"key": "boost_target", "unit": "kPa"}, "ms": 3}
REPORT = {
    "summary": "One cell is off.",
    "anomalies": [
        {
            "row": 3,
            "column": 8,
            "at": "2500 rpm, 90 %",
            "value": 131.0,
            "expected": 177.0,
            "unit": "kPa",
        }
    ],
    "suggested_patch": {
        "cell_edits": [{"map": "boost_target", "row": 3, "column": 8, "value": 177.0}]
    },
    "next_action": "Approve the patch.",
}


def test_the_answer_is_on_stdout_and_the_rest_on_stderr(
    orchestrator: Scripted, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    orchestrator.streams.append(
        FIRST
        + sse(2, "tool_call", CALL)
        + sse(3, "tool_result", RESULT)
        + sse(4, "token", {"text": "All "})
        + sse(5, "token", {"text": "well.\x1b[2J [bold]"})
        + end(6, answer="All well.")
    )
    assert variet("ask", "hello", "--tier", "deep", "--thread", "t1") == 0
    out, err = capsys.readouterr()
    assert out == "All well.\\x1b[2J [bold]\n"
    assert '▸ get_map key="boost_target"' in err
    assert 'key: "boost_target" · unit: "kPa"  (3 ms)' in err
    assert "thread t1 · run r1" in err
    body = orchestrator.requests("POST", "/chat")[0].body
    assert (body["message"], body["tier"], body["thread_id"]) == ("hello", "deep", "t1")


def test_json_prints_the_whole_response_and_nothing_else(
    orchestrator: Scripted, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    orchestrator.streams.append(FIRST + sse(2, "token", {"text": "Hi"}) + end(3, answer="Hi"))
    assert variet("ask", "hello", "--json") == 0
    assert json.loads(capsys.readouterr().out)["answer"] == "Hi"


def test_a_report_is_asked_for_and_shown_as_a_table(
    orchestrator: Scripted, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    orchestrator.streams.append(FIRST + end(2, answer="x", structured=REPORT))
    assert variet("ask", "hello", "--schema", "report") == 0
    out = capsys.readouterr().out
    assert "2500 rpm, 90 %  3    8       131    177       kPa" in out
    assert "boost_target[row 3, column 8] = 177" in out
    sent = orchestrator.requests("POST", "/chat")[0].body["response_schema"]
    assert "anomalies" in sent["properties"]


def test_a_schema_of_ones_own_is_sent_and_its_json_printed(
    orchestrator: Scripted, variet: Variet, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "schema.json"
    file.write_text('{"type": "object"}')
    orchestrator.streams.append(FIRST + end(2, structured={"maps": 4}))
    assert variet("ask", "hello", "--schema", str(file)) == 0
    assert json.loads(capsys.readouterr().out) == {"maps": 4}
    assert orchestrator.requests("POST", "/chat")[0].body["response_schema"] == {"type": "object"}


@pytest.mark.parametrize(("content", "said"), [(None, "No such file"), ("{", "is not JSON")])
def test_a_bad_schema_file_is_named(
    content: str | None,
    said: str,
    variet: Variet,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    file = tmp_path / "schema.json"
    if content:
        file.write_text(content)
    assert variet("ask", "hello", "--schema", str(file)) == 1
    err = capsys.readouterr().err
    assert said in err
    assert str(file) in err


def test_a_failed_run_says_why_and_is_an_error(
    orchestrator: Scripted, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    error = {"code": "x", "message": "The engine broke off.", "remedy": "Ask again."}
    orchestrator.streams.append(FIRST + end(2, "failed", error=error))
    assert variet("ask", "hello") == 1
    assert "The engine broke off. Ask again." in capsys.readouterr().err


def test_an_approval_without_a_terminal_is_left_open(
    orchestrator: Scripted, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = approval(operation="write", path="evil\u202etxt", content="one\n\x1b[2Jtwo")
    orchestrator.streams.append(
        FIRST + sse(2, "approval", asked) + end(3, "awaiting_approval", approvals=[asked])
    )
    assert variet("ask", "write it") == 3
    err = capsys.readouterr().err
    assert "Approval needed: file_operations" in err
    assert 'path = "evil\\u202etxt"' in err
    assert "    │ one\n    │ \\x1b[2Jtwo" in err
    assert "variet approvals answer a1 approve" in err


def test_without_an_orchestrator_it_says_how_to_start_one(
    variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert variet("ask", "hello", "--url", "http://127.0.0.1:9") == 1
    err = capsys.readouterr().err
    assert "not running" in err
    assert "make run" in err
