"""What is left when a part is gone, and what comes back by itself. Times go into the report."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.stack import faults
from tests.stack.docker import ENGINE, docker, restartable, run
from tests.stack.hosts import LAN_IP, Host, client
from tests.stack.report import Report

pytestmark = pytest.mark.stack

QUESTION = "Summarize anomalies in boost_target map"
# A tenth of a core: the answer then takes seconds, and can be cut.
SLOW = "0.1"
FILL = """
try:
    with open("/state/filler", "wb", 0) as file:
        while True:
            file.write(bytes(1 << 16))
except OSError as error:
    print(error.strerror)
"""
TEXT = "This page speaks of turbines, valves and hoses."
LARGE_TEXT = f"{TEXT}\n\n" * 20_000


@pytest.fixture(autouse=True)
def whole_again(brain: Host, hands: Host) -> Iterator[None]:
    """Every test begins and ends with both hosts well."""
    yield
    for host in (brain, hands):
        host.wait_until_healthy()


def test_an_engine_that_dies_in_mid_answer_ends_the_run_with_an_error_and_is_started_anew(
    brain: Host, hands: Host, api: httpx2.Client, report: Report
) -> None:
    faults.ask(api, QUESTION)
    engine = brain.engines()["nano@balanced"]
    docker("update", "--cpus", SLOW, engine)
    seen, died = [], 0.0
    try:
        for kind, data in faults.events(api, QUESTION):
            seen.append((kind, data))
            if kind == "token" and not died:
                docker("kill", engine)
                died = time.monotonic()
        took = time.monotonic() - died
    finally:
        docker("update", "--cpus", brain.values["ENGINE_CPUS"], engine, check=False)
    assert died
    kind, end = seen[-1]
    assert (kind, end["status"]) == ("end", "failed")
    error = next(data for kind, data in seen if kind == "error")
    assert error["remedy"]
    assert took < 10
    report.fault("engine dies in mid-answer", f"stream ends with error {error['code']}", took)
    assert faults.ask(api, QUESTION)["status"] == "completed"
    assert brain.engines()["nano@balanced"] != engine


def test_without_the_brain_everything_but_its_answers_goes_on_and_it_is_missed_at_once(
    brain: Host, hands: Host, api: httpx2.Client, report: Report
) -> None:
    before = faults.started_at(hands, "orchestrator")
    thread = faults.ask(api, QUESTION)["thread_id"]
    assert faults.ingest(api, TEXT, "hoses")["status"] == "done"
    with faults.stopped(brain, "gateway"):
        began = time.monotonic()
        answer = faults.ask(api, QUESTION)
        took = time.monotonic() - began
        assert answer["status"] == "failed"
        assert LAN_IP in answer["error"]["message"]
        assert answer["error"]["remedy"]
        assert took < 10
        report.fault("brain is gone", f"/chat answers {answer['error']['code']}", took)

        assert api.get(f"/threads/{thread}").status_code == 200
        found = api.get("/search", params={"q": "turbines"}).raise_for_status().json()
        assert found["results"]
        called = faults.tool(api, "get_map", key="boost_target")
        assert called.json()["result"]["anomalies"]
        checks = api.get("/health").raise_for_status().json()["checks"]
        assert checks["engine"]["status"] == "down"
        report.fault("brain is gone", "threads, search by words and tools by hand answer", 0)
    began = time.monotonic()
    assert faults.ask(api, QUESTION)["status"] == "completed"
    report.fault("brain is back", "/chat answers again", time.monotonic() - began)
    assert faults.started_at(hands, "orchestrator") == before


@pytest.mark.parametrize("how", ["restarted", "killed"])
def test_an_approval_outlives_its_orchestrator_and_is_carried_out_once(
    how: str, hands: Host, api: httpx2.Client, report: Report
) -> None:
    name = f"{how}.txt"
    approval = faults.ask_to_write(api, name, how)
    before = faults.started_at(hands, "orchestrator")
    began = time.monotonic()
    if how == "killed":
        faults.kill(hands, "orchestrator")
    else:
        docker("restart", hands.container("orchestrator"))
    faults.wait_until_started_anew(hands, "orchestrator", before)
    faults.wait_for(hands, "/ready")
    took = time.monotonic() - began

    with client(hands) as http:
        assert approval["id"] in faults.pending(http)
        assert not (workspace(hands) / name).exists()
        calls = writes(hands)
        decided = faults.decide(http, approval)
        assert decided.status_code == 200, decided.text
        assert [one["status"] for one in decided.json()["tool_calls"]] == ["finished"]
        assert faults.decide(http, approval).status_code == 409
    assert (workspace(hands) / name).read_text() == how
    assert writes(hands) == calls + 1
    report.fault(f"orchestrator is {how}", "approval is there, carried out once", took)


def test_without_postgresql_requests_are_refused_and_nothing_has_to_be_restarted(
    hands: Host, api: httpx2.Client, report: Report
) -> None:
    before = faults.started_at(hands, "orchestrator")
    thread = faults.ask(api, QUESTION)["thread_id"]
    with faults.stopped(hands, "postgres"):
        began = time.monotonic()
        refused = api.post("/chat", json={"message": QUESTION})
        took = time.monotonic() - began
        assert refused.status_code == 503
        assert refused.json()["error"]["remedy"]
        assert took < 10
        assert api.get("/threads").status_code == 503
        assert api.get("/health").status_code == 503
        code = refused.json()["error"]["code"]
        report.fault("PostgreSQL is gone", f"503 {code}, /health is down", took)
    took = faults.wait_for(hands, f"/threads/{thread}")
    assert faults.ask(api, QUESTION)["status"] == "completed"
    report.fault("PostgreSQL is back", "old threads and new answers", took)
    assert faults.started_at(hands, "orchestrator") == before


def test_a_postgresql_that_crashes_is_started_again_and_loses_no_approval(
    hands: Host, api: httpx2.Client, report: Report
) -> None:
    approval = faults.ask_to_write(api, "crash.txt", "crash")
    before = faults.started_at(hands, "postgres")
    began = time.monotonic()
    faults.kill(hands, "postgres")
    faults.wait_until_started_anew(hands, "postgres", before)
    faults.wait_for(hands, "/approvals")
    took = time.monotonic() - began
    assert approval["id"] in faults.pending(api)
    assert faults.decide(api, approval, "reject").status_code == 200
    report.fault("PostgreSQL is killed", "it comes back, the approval with it", took)


def test_a_full_state_volume_refuses_what_needs_room_and_recovers_when_there_is_some(
    hands: Host, api: httpx2.Client, report: Report
) -> None:
    container = hands.container("orchestrator")
    said = docker("exec", container, "python", "-c", FILL)
    assert said == "No space left on device"
    began = time.monotonic()
    refused = faults.ingest(api, LARGE_TEXT, "no-room")
    took = time.monotonic() - began
    error = refused.get("error") or refused["errors"][0]
    assert error["code"] == "store_full", refused
    assert error["remedy"]
    assert faults.ask(api, QUESTION)["status"] == "completed"
    assert faults.tool(api, "get_map", key="boost_target").status_code == 200
    report.fault("state volume is full", f"ingest is refused: {error['code']}; chat goes on", took)

    docker("exec", container, "python", "-c", "import os; os.remove('/state/filler')")
    began = time.monotonic()
    done = faults.ingest(api, TEXT, "room")
    while done.get("status") != "done" and time.monotonic() - began < faults.RETURN_S:
        done = faults.ingest(api, TEXT, "room")
    assert done.get("status") == "done", done
    assert api.get("/search", params={"q": "turbines"}).json()["results"]
    report.fault("state volume has room", "ingest works again", time.monotonic() - began)


def test_without_one_tool_server_the_others_serve_and_it_comes_back(
    hands: Host, api: httpx2.Client, report: Report
) -> None:
    with faults.stopped(hands, "logs"):
        began = time.monotonic()
        refused = faults.tool(api, "search_logs", query="error")
        took = time.monotonic() - began
        assert refused.status_code >= 400
        error = refused.json()["error"]
        assert "logs" in error["message"]
        assert faults.tool(api, "get_map", key="boost_target").status_code == 200
        report.fault("tool server logs is gone", f"{error['code']}; others serve", took)
    began = time.monotonic()
    while faults.tool(api, "search_logs", query="error").status_code != 200:
        assert time.monotonic() - began < faults.RETURN_S
        time.sleep(0.2)
    report.fault("tool server logs is back", "its tools serve", time.monotonic() - began)


def test_a_tool_server_that_crashes_is_started_again(
    hands: Host, api: httpx2.Client, report: Report
) -> None:
    before = faults.started_at(hands, "calibration")
    began = time.monotonic()
    faults.kill(hands, "calibration")
    faults.wait_until_started_anew(hands, "calibration", before)
    while faults.tool(api, "get_map", key="boost_target").status_code != 200:
        assert time.monotonic() - began < faults.RETURN_S
        time.sleep(0.2)
    report.fault("tool server crashes", "started again, serves", time.monotonic() - began)


@pytest.mark.skipif(not restartable(), reason="needs an engine that .ci/docker-engine started")
def test_after_a_restart_of_the_engine_everything_comes_back_by_itself(
    brain: Host, hands: Host, report: Report
) -> None:
    with client(hands) as http:
        approval = faults.ask_to_write(http, "engine.txt", "engine")
    run(str(ENGINE), "restart")
    began = time.monotonic()
    for host in (brain, hands):
        host.wait_until_healthy()
    faults.wait_for(hands, "/ready")
    took = time.monotonic() - began
    with client(hands) as http:
        assert approval["id"] in faults.pending(http)
        assert faults.decide(http, approval).status_code == 200
        assert faults.ask(http, QUESTION)["status"] == "completed"
    assert (workspace(hands) / "engine.txt").read_text() == "engine"
    report.fault("Docker engine restarts", "both hosts are back, approval too", took)


def workspace(hands: Host) -> Path:
    return Path(hands.values["WORKSPACE_DIR"])


def writes(hands: Host) -> int:
    """How often the workspace's server was asked to work on files."""
    return len(re.findall(r"'file_operations' \d+ ms", hands.compose("logs", "workspace")))
