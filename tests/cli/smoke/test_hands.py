"""Each row of the workstation's table, against a scripted orchestrator, brain, Langfuse, Docker."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.smoke import hands as rows
from cli.smoke import langfuse
from tests.cli.smoke.conftest import Smoke
from tests.support.scripted_brain import KEY, Brain
from tests.support.scripted_orchestrator import (
    Scripted,
    approval,
    response,
    scripted_orchestrator,
)

OWN = "0123456789abcdef-hands"
ANOMALIES = [
    {"row": 3, "column": 8, "at": "2500 rpm, 90 %", "value": 131, "expected": 177, "unit": "kPa"},
    {"row": 6, "column": 5, "at": "4000 rpm, 60 %", "value": 214, "expected": 164, "unit": "kPa"},
]
REPORT = {
    "summary": "Two anomalies.",
    "anomalies": ANOMALIES,
    "suggested_patch": None,
    "next_action": "Look at them.",
}
CALL = {
    "id": "c1",
    "name": "get_map",
    "arguments": {"key": "boost_target"},
    "status": "finished",
    "result": {"anomalies": [{"row": 3, "column": 8}, {"row": 6, "column": 5}]},
    "ms": 12,
}
SERVICES = ("orchestrator", "postgres")
HIT: dict[str, Any] = {
    "text": "# x\nThe smoke test's marker word is quillwort-7413: it means that retrieval works.",
    "source": "text:variet-smoke",
    "score": 0.9,
    "citation": {
        "n": 1, "source": "text:variet-smoke", "start_line": 1, "end_line": 2, "score": 0.9
    },
}  # fmt: skip
DOCKER = """
words = " ".join(sys.argv)
containers = json.load(open(sys.argv[0] + ".json"))
if "config --services" in words:
    print("\\n".join(one["Service"] for one in containers["wanted"]))
elif " ps " in words:
    print("\\n".join(map(json.dumps, containers["there"])))
else:
    sys.exit(f"unexpected: {words}")
"""


class Hands:
    """The scripted workstation. `hits` and `pending` are what is answered in turn."""

    def __init__(self, script: Scripted, docker: Path) -> None:
        self.script = script
        self._docker = docker
        self.hits = [[HIT], []]
        self.pending = [[approval()], []]
        self.chat = response(structured=REPORT, tool_calls=[CALL], trace_url="http://lf/trace/t9")
        self.decided = response(tool_calls=[CALL | {"name": "file_operations"}])
        self.decided["tool_calls"][0]["status"] = "rejected"
        self.executed: Any = (202, {"run_id": "r2", "approval": approval()})
        self.containers()
        job = {"job_id": "j1", "status": "done", "collection": "docs", "source": "x"}
        script.routes |= {
            "GET /threads": self._door,
            "POST /chat": lambda: self.chat,
            "POST /ingest": (202, {"job_id": "j1"}),
            "GET /ingest/jobs/j1": job | {"created_at": "", "updated_at": ""},
            "GET /search": lambda: {"results": self.hits.pop(0)},
            "DELETE /ingest": {"removed": 1},
            "POST /tools/execute": lambda: self.executed,
            "GET /approvals": lambda: {"items": self.pending.pop(0)},
            "POST /approvals/a1": lambda: self.decided,
            "DELETE /threads/t1": {"deleted": 1},
        }

    def containers(self, **states: str) -> None:
        """Each service healthy, or in the given state."""
        wanted = [{"Service": name} for name in SERVICES]
        there = [
            {
                "Service": name,
                "State": "exited" if states.get(name) == "exited" else "running",
                "Health": states.get(name, "healthy"),
                "ExitCode": 0,
            }
            for name in SERVICES
            if states.get(name) != "absent"
        ]
        Path(f"{self._docker}.json").write_text(json.dumps({"wanted": wanted, "there": there}))

    def _door(self) -> Any:
        if self.script.seen[-1].headers.get("authorization") == f"Bearer {OWN}":
            return {"items": []}
        error = {"code": "unauthorized", "message": "No key.", "remedy": "Send one."}
        return 401, {"error": error}


@pytest.fixture
def hands(
    env: Callable[..., Path],
    brain: Brain,
    programs: Callable[[str, str], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Hands]:
    with scripted_orchestrator() as script:
        monkeypatch.setenv("VARIET_URL", script.url)
        monkeypatch.setenv("STATE_DIR", str(tmp_path / "state"))
        for name in ("VARIET_API_KEY", "WORKSPACE_DIR", "OPENAI_COMPAT_KEY"):
            monkeypatch.delenv(name, raising=False)
        env(
            VARIET_ROLE="hands",
            COMPOSE_FILE="docker-compose.workstation.yml",
            VARIET_API_KEY=OWN,
            OPENAI_COMPAT_URL=f"http://127.0.0.1:{brain.port}/v1",
            OPENAI_COMPAT_KEY=KEY,
        )
        yield Hands(script, programs("docker", DOCKER))


def test_a_workstation_that_does_its_work_is_well(hands: Hands, smoke: Smoke) -> None:
    found = smoke()
    assert {name: row["status"] for name, row in found.items() if name != "status"} == {
        "containers": "ok", "brain": "ok", "door": "ok", "tool flow": "ok", "retrieval": "ok",
        "approval": "ok", "trace": "off",
    }, found  # fmt: skip
    assert found["status"] == 0
    assert "2 healthy: orchestrator, postgres" in found["containers"]["detail"]
    assert "row 3 column 8, row 6 column 5" in found["tool flow"]["detail"]
    assert "cited as [1] text:variet-smoke:1-2, then removed" in found["retrieval"]["detail"]
    assert found["trace"]["detail"] == "the profile langfuse is not selected"
    (chat,) = hands.script.requests("POST", "/chat")
    assert chat.body["response_schema"]["required"] == list(REPORT)
    (decision,) = hands.script.requests("POST", "/approvals/a1")
    assert decision.body["decision"] == "reject"


def test_what_it_made_it_takes_away(hands: Hands, smoke: Smoke) -> None:
    smoke()
    calls = [f"{one.method} {one.path}" for one in hands.script.seen]
    removal = "DELETE /ingest?source=text%3Avariet-smoke"
    assert [call for call in calls if call in ("POST /ingest", removal)] == [
        removal, "POST /ingest", removal
    ]  # fmt: skip
    assert len(hands.script.requests("DELETE", "/threads/t1")) == 2


def test_the_conversation_of_a_failure_stays_to_be_looked_at(hands: Hands, smoke: Smoke) -> None:
    hands.chat = response("failed", error={"code": "x", "message": "No.", "remedy": "Mend it."})
    found = smoke()
    assert found["tool flow"]["detail"] == "The run is failed: No. Mend it."
    assert found["tool flow"]["remedy"] == "See: variet runs show r1"
    assert len(hands.script.requests("DELETE", "/threads/t1")) == 1  # the approval's


def changed(**more: Any) -> dict[str, Any]:
    return response(**({"structured": REPORT, "tool_calls": [CALL]} | more))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (changed(tool_calls=[]), "did not call get_map; it called no tool"),
        (changed(tool_calls=[CALL | {"name": "list_maps"}]), "it called list_maps"),
        (
            changed(tool_calls=[
                CALL | {"status": "failed", "result": None, "error":
                        {"code": "x", "message": "No map boost_target.", "remedy": "Put it there."}}
            ]),
            "get_map failed: No map boost_target.",
        ),
        (changed(tool_calls=[CALL | {"result": {"anomalies": []}}]), "found no anomaly"),
        (changed(structured=None), "not a report"),
        (changed(structured=REPORT | {"anomalies": [{"row": 1}]}), "not a report"),
        (
            changed(structured=REPORT | {"anomalies": ANOMALIES[:1]}),
            "the summary names row 3 column 8.",
        ),
        (changed(structured=REPORT | {"anomalies": []}), "the summary names none."),
    ],
)  # fmt: skip
def test_a_tool_flow_that_is_not_the_tools_own_fails(
    hands: Hands, smoke: Smoke, answer: dict[str, Any], told: str
) -> None:
    hands.chat = answer
    found = smoke()
    assert (found["tool flow"]["status"], found["status"]) == ("failed", 1)
    assert told in found["tool flow"]["detail"]
    assert found["approval"]["status"] == "ok"


def test_a_text_that_is_not_found_or_stays_fails(hands: Hands, smoke: Smoke) -> None:
    hands.hits = [[HIT | {"source": "other.md"}], []]
    assert "a search for it found other.md" in smoke()["retrieval"]["detail"]
    hands.hits, hands.pending = [[HIT], [HIT]], [[approval()], []]
    assert "removed, but is found still" in smoke()["retrieval"]["detail"]


def test_a_wrong_citation_fails_and_the_text_is_removed_all_the_same(
    hands: Hands, smoke: Smoke
) -> None:
    hands.hits = [[HIT | {"citation": HIT["citation"] | {"source": "other.md"}}], []]
    assert "is cited as other.md:1" in smoke()["retrieval"]["detail"]
    assert len(hands.script.requests("DELETE", "/ingest")) == 2  # before and after


def test_an_index_that_never_takes_the_text_fails(
    hands: Hands, smoke: Smoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "INDEX_TIMEOUT_S", 0.0)
    hands.script.routes["GET /ingest/jobs/j1"] |= {"status": "queued"}
    found = smoke()
    assert (found["retrieval"]["status"], found["approval"]["status"]) == ("failed", "ok")
    assert "is not done after 0 s" in found["retrieval"]["detail"]


def test_an_approval_has_to_wait_and_its_rejection_to_hold(
    hands: Hands, smoke: Smoke, tmp_path: Path
) -> None:
    hands.pending = [[], []]
    assert "not in the list" in smoke()["approval"]["detail"]
    hands.hits, hands.pending = [[HIT], []], [[approval()], [approval()]]
    assert "pending still" in smoke()["approval"]["detail"]
    hands.hits, hands.pending = [[HIT], []], [[approval()], []]
    hands.decided["tool_calls"][0]["status"] = "finished"
    assert "The rejected call is ['finished']" in smoke()["approval"]["detail"]
    hands.hits, hands.pending = [[HIT], []], [[approval()], []]
    hands.decided["tool_calls"][0]["status"] = "rejected"
    (tmp_path / "state" / "workspace").mkdir(parents=True)
    (tmp_path / "state" / "workspace" / "variet-smoke.txt").touch()
    assert "or wrote variet-smoke.txt" in smoke()["approval"]["detail"]


def test_a_policy_that_lets_files_be_written_fails_and_leaves_none(
    hands: Hands, smoke: Smoke
) -> None:
    hands.executed = {"result": {"operation": "write", "path": "variet-smoke.txt"}}
    found = smoke()
    assert "without asking" in found["approval"]["detail"]
    calls = [one.body["arguments"] for one in hands.script.requests("POST", "/tools/execute")]
    assert [call["operation"] for call in calls] == ["write", "delete"]


@pytest.mark.parametrize(
    ("states", "told"),
    [
        ({"postgres": "unhealthy"}, "postgres is unhealthy"),
        ({"postgres": "starting"}, "postgres is starting"),
        ({"postgres": "exited"}, "postgres is exited"),
        ({"postgres": "absent"}, "postgres was not started"),
        ({"postgres": "absent", "orchestrator": "absent"}, "No container of this stack"),
    ],
)
def test_every_container_has_to_be_healthy(
    hands: Hands, smoke: Smoke, states: dict[str, str], told: str
) -> None:
    hands.containers(**states)
    found = smoke()
    assert found["containers"]["status"] == "failed"
    assert told in found["containers"]["detail"]


def test_an_open_door_fails(hands: Hands, smoke: Smoke) -> None:
    hands.script.routes["GET /threads"] = {"items": []}
    found = smoke()
    assert "answered a call without a key" in found["door"]["detail"]


def test_an_orchestrator_with_another_key_is_said(
    hands: Hands, smoke: Smoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = {"code": "unauthorized", "message": "Wrong key.", "remedy": "Correct it."}
    hands.script.routes["POST /chat"] = (401, {"error": error})
    assert smoke()["tool flow"]["detail"] == "Wrong key."


def test_a_brain_out_of_reach_or_with_another_key_is_said(
    hands: Hands, smoke: Smoke, brain: Brain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_COMPAT_KEY", "another")
    assert "refused our key (401)" in smoke()["brain"]["detail"]
    monkeypatch.setenv("OPENAI_COMPAT_URL", "http://127.0.0.1:9/v1")
    assert "does not answer at http://127.0.0.1:9/v1" in smoke()["brain"]["detail"]


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    """A Langfuse of version 4."""
    monkeypatch.setattr(langfuse, "POLL_S", 0.01)
    monkeypatch.setattr(langfuse, "PATIENCE_S", 0.05)
    with scripted_orchestrator() as script:
        monkeypatch.setenv("COMPOSE_PROFILES", "langfuse")
        monkeypatch.setenv("LANGFUSE_BASE_URL", script.url)
        monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-1")
        monkeypatch.setenv("LANGFUSE_SECRET_KEY", "sk-lf-1")
        yield script


SPANS = [{"id": "o1", "traceId": "t9", "name": "turn"}, {"id": "o2", "traceId": "t9", "type": "X"}]


def test_the_trace_is_looked_up_until_it_is_there(
    hands: Hands, smoke: Smoke, traces: Scripted
) -> None:
    answers = iter([[], [], SPANS])
    traces.routes[f"GET {langfuse.PATH}"] = lambda: {"data": next(answers), "meta": {}}
    found = smoke()
    assert found["trace"]["detail"] == "2 observations: X, turn"
    asked = traces.seen[-1]
    assert "traceId=t9" in asked.path
    assert asked.headers["authorization"] == "Basic cGstbGYtMTpzay1sZi0x"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"data": [], "meta": {}}, "has no trace t9 after"),
        ({"data": [{"id": "o1", "traceId": "another"}], "meta": {}}, "has no trace t9 after"),
        ((401, {"message": "Invalid credentials"}), "refused the keys (401)"),
        ((404, {"message": "Not Found"}), "answered 404"),
        ({"traces": 1}, "answered 200"),
    ],
)
def test_a_trace_that_is_not_there_fails(
    hands: Hands, smoke: Smoke, traces: Scripted, answer: Any, told: str
) -> None:
    traces.routes[f"GET {langfuse.PATH}"] = answer
    found = smoke()
    assert (found["trace"]["status"], found["status"]) == ("failed", 1)
    assert told in found["trace"]["detail"]


def test_an_orchestrator_that_sends_no_traces_fails(
    hands: Hands, smoke: Smoke, traces: Scripted
) -> None:
    hands.chat["trace_url"] = None
    assert "sends no traces" in smoke()["trace"]["detail"]
