"""The HTTP contract: shapes of answers and errors, events, health, metrics, the page."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from contracts.chat import ChatResponse, Health, RunView, ThreadDetail
from contracts.errors import ErrorEnvelope
from orchestrator.agent import log
from tests.support.hands import Hands, hands
from tests.support.no_index import NoIndex
from tests.support.probe_tools import Probe
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripted_reply import script

LOOK = {"tool_calls": [{"name": "look", "arguments": {"text": "x"}}]}
CHANGE = {"tool_calls": [{"name": "change", "arguments": {"text": "x"}}]}
JSON = {"content-type": "application/json"}


async def test_answers_have_the_shapes_of_the_contract(variet: Hands) -> None:
    answer = await variet.ask(script(LOOK, {"text": "Seen."}))
    ChatResponse.model_validate(answer)
    assert set(answer) >= {
        "thread_id", "run_id", "status", "answer", "structured", "tool_calls", "approvals",
        "citations", "usage", "latency_ms", "model", "trace_url",
    }  # fmt: skip
    assert set(answer["tool_calls"][0]) == {
        "id", "name", "arguments", "status", "result", "error", "ms"
    }  # fmt: skip
    run = (await variet.client.get(f"/runs/{answer['run_id']}")).json()
    assert RunView.model_validate(run).response == ChatResponse.model_validate(answer)
    assert [stage["name"] for stage in run["stages"]] == ["model", "tool", "model"]
    thread = (await variet.client.get(f"/threads/{answer['thread_id']}")).json()
    ThreadDetail.model_validate(thread)
    assert [m["role"] for m in thread["messages"]] == ["user", "assistant", "tool", "assistant"]


async def test_lists_come_in_pages_newest_first(variet: Hands) -> None:
    for n in range(3):
        await variet.ask(script({"text": f"{n}"}))
    for path in ("/runs", "/threads"):
        every = (await variet.client.get(path)).json()
        assert every["next"] is None
        first = (await variet.client.get(f"{path}?limit=2")).json()
        second = (await variet.client.get(f"{path}?limit=2&before={first['next']}")).json()
        assert first["items"] + second["items"] == every["items"]
        assert len(every["items"]) == 3
        assert second["next"] is None
    assert every["items"][0]["created_at"] >= every["items"][-1]["created_at"]


async def test_a_stream_is_asked_for_in_the_body_or_in_the_header(variet: Hands) -> None:
    body: dict[str, Any] = {"message": script({"text": "Hi."})}
    for given, headers in (
        (body | {"stream": True}, {}),
        (body, {"accept": "text/event-stream"}),
    ):
        answer = await variet.client.post("/chat", json=given, headers=headers)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.text.endswith("\n\n")
        blocks = answer.text.strip().split("\n\n")
        for block in blocks:
            keys = [line.split(": ")[0] for line in block.split("\n")]
            assert keys == ["id", "event", "data"]


async def test_events_are_read_on_after_an_id_however_it_is_given(variet: Hands) -> None:
    events = await variet.events(script({"text": "a b c d"}))
    path = f"/runs/{events[0]['data']['run_id']}/events"
    middle, later = events[2]["id"], events[4]["id"]
    asked: list[tuple[str, dict[str, str], int]] = [
        (path, {"last-event-id": str(middle)}, middle),
        (f"{path}?after={middle}", {}, middle),
        # A browser that reconnects repeats the address, and says what it has seen since.
        (f"{path}?after={middle}", {"last-event-id": str(later)}, later),
        (path, {"last-event-id": "999999999"}, 10**9),
        (path, {}, 0),
    ]
    for address, headers, after in asked:
        text = (await variet.client.get(address, headers=headers)).text
        ids = [int(line[4:]) for line in text.splitlines() if line.startswith("id: ")]
        assert ids == [e["id"] for e in events if e["id"] > after]


async def test_a_wrong_event_id_is_refused(variet: Hands) -> None:
    run = (await variet.ask(script({"text": "x"})))["run_id"]
    for bad in ("abc", "-1", "1.5", "", "9" * 30, "1 2", "٣"):
        headers = {b"last-event-id": bad.encode()}
        answer = await variet.client.get(f"/runs/{run}/events", headers=headers)
        assert (bad, answer.status_code) == (bad, 400)
        assert answer.json()["error"]["code"] == "bad_event_id"
    for bad in ("abc", "-1"):
        assert (await variet.client.get(f"/runs/{run}/events?after={bad}")).status_code == 422


async def test_a_quiet_stream_shows_that_it_is_alive(
    variet: Hands, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "KEEPALIVE_S", 0.05)
    body = {"message": script({"tool_calls": [{"name": "hang"}]}, {"text": "x"}), "stream": True}
    async with variet.client.stream("POST", "/chat", json=body) as answer:
        text = ""
        async for piece in answer.aiter_text():
            text += piece
            if ": still here\n\n" in text:
                probe.release.set()
    assert text.count("event: end") == 1


ERRORS: list[tuple[str, str, bytes | None, int, str]] = [
    ("GET", "/nothing", None, 404, "unknown_route"),
    ("GET", "/runs/run_x", None, 404, "unknown_run"),
    ("GET", "/runs/%ED%A0%80/events", None, 404, "unknown_run"),
    ("GET", "/threads/thr_x", None, 404, "unknown_thread"),
    ("POST", "/approvals/appr_x", b'{"decision": "approve"}', 404, "unknown_approval"),
    ("POST", "/tools/execute", b'{"name": "x"}', 404, "unknown_tool"),
    ("GET", "/ingest/jobs/x", None, 404, "no_job"),
    ("DELETE", "/chat", None, 405, "refused"),
    ("POST", "/chat", b"{", 400, "bad_json"),
    ("POST", "/chat", b"[" * 100_000, 400, "bad_json"),
    ("POST", "/chat", b"\xff\xfe", 400, "bad_json"),
    ("POST", "/chat", b"[]", 422, "bad_request"),
    ("POST", "/chat", b'{"message": ""}', 422, "bad_request"),
    ("POST", "/chat", b'{"message": "\\ud800"}', 422, "bad_request"),
    ("POST", "/chat", b'{"message": "x", "\\ud800": 1}', 422, "bad_request"),
    ("POST", "/chat", b'{"message": "x", "mesage": 1}', 422, "bad_request"),
    ("POST", "/chat", b'{"message": "x", "thread_id": "thr_x"}', 404, "unknown_thread"),
    ("POST", "/chat", b'{"message": "x", "response_schema": {}}', 422, "bad_schema"),
    ("POST", "/ingest", b'{"path": "/etc/passwd"}', 403, "path_outside_roots"),
    ("GET", "/runs?limit=0", None, 422, "bad_request"),
    ("GET", "/search?q=", None, 422, "bad_request"),
    ("GET", "/search?q=x", None, 503, "index_unavailable"),
    ("DELETE", "/threads", None, 422, "bad_request"),
]


async def test_every_error_has_a_code_a_message_and_a_remedy(variet: Hands) -> None:
    for method, path, body, status, code in ERRORS:
        answer = await variet.client.request(method, path, content=body, headers=JSON)
        error = ErrorEnvelope.model_validate(answer.json()).error
        assert (path, body, answer.status_code, error.code) == (path, body, status, code)
        assert error.message
        assert error.remedy
    allowed = await variet.client.request("DELETE", "/chat")
    assert allowed.headers["allow"] == "POST"


async def test_a_defect_is_told_as_one_and_not_in_detail(
    variet: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("an inner secret")

    monkeypatch.setattr(variet.orchestrator.store, "runs", broken)
    answer = await variet.client.get("/runs")
    assert answer.status_code == 500
    assert ErrorEnvelope.model_validate(answer.json()).error.code == "internal"
    assert "secret" not in answer.text


async def test_health_says_what_is_wrong_and_how_to_mend_it(
    variet: Hands, engine: ScriptedEngine
) -> None:
    # These hands have no index: that is degraded, not down.
    answer = await variet.client.get("/health")
    health = Health.model_validate(answer.json())
    assert (answer.status_code, health.status) == (200, "degraded")
    assert health.checks["index"].status == "down"
    assert health.checks["index"].remedy
    assert health.checks["engine"].status == "ok"
    assert health.checks["traces"].status == "off"
    await engine.stop()
    answer = await variet.client.get("/health")
    health = Health.model_validate(answer.json())
    assert (answer.status_code, health.status) == (200, "degraded")
    assert health.checks["engine"].status == "down"
    assert engine.url in health.checks["engine"].detail
    assert (await variet.client.get("/ready")).status_code == 200


class Hung(NoIndex):
    async def stats(self, within: float = 0) -> Any:
        await asyncio.get_running_loop().create_future()


async def test_health_answers_in_time_while_everything_hangs(probe: Probe, tmp_path: Path) -> None:
    callers: list[asyncio.StreamWriter] = []

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """An answer that never gets to its end, in pieces that each come in time."""
        callers.append(writer)
        writer.write(b"HTTP/1.1 200 OK\r\n")
        await writer.drain()

    engine = await asyncio.start_server(drip, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{engine.sockets[0].getsockname()[1]}/v1"
    limits: dict[str, Any] = {"first_token_timeout_s": 0.1}
    async with hands(url, tmp_path, probe.server, index=Hung(), **limits) as variet:
        began = time.monotonic()
        answer = await variet.client.get("/health")
        assert time.monotonic() - began < 2.5
        checks = answer.json()["checks"]
        assert (checks["engine"]["status"], checks["index"]["status"]) == ("down", "down")
        assert answer.json()["status"] == "degraded"
    for writer in callers:
        writer.close()
    engine.close()
    await engine.wait_closed()


async def test_without_its_store_nothing_can_be_served(
    variet: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: Any) -> None:
        raise OSError("disk I/O error")

    monkeypatch.setattr(variet.orchestrator.store, "run", full)
    answer = await variet.client.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "down")
    assert "disk I/O error" in answer.json()["checks"]["store"]["detail"]


def value_of(text: str, sample: str) -> float:
    found = [line for line in text.splitlines() if line.startswith(f"{sample} ")]
    return float(found[0].rsplit(" ", 1)[1]) if found else 0.0


async def test_metrics_count_runs_tokens_and_tool_calls(variet: Hands, probe: Probe) -> None:
    samples = [
        'variet_runs_total{status="completed"}',
        'variet_runs_total{status="failed"}',
        'variet_runs_total{status="stopped"}',
        "variet_run_seconds_count",
        'variet_tokens_total{kind="prompt"}',
        'variet_tokens_total{kind="completion"}',
        'variet_tool_calls_total{status="finished",tool="look"}',
        'variet_tool_calls_total{status="finished",tool="change"}',
        'variet_tool_calls_total{status="failed",tool="(unknown)"}',
    ]
    before = (await variet.client.get("/metrics")).text
    answers = [
        await variet.ask(script(LOOK, {"text": "Seen."})),
        await variet.ask(script({"tool_calls": [{"name": "made_up_name"}]}, {"text": "No."})),
        await variet.ask(script({"status": 500})),
    ]
    asked = await variet.ask(script(CHANGE, {"text": "Changed."}))
    hanging = asyncio.create_task(variet.ask(script({"tool_calls": [{"name": "hang"}]})))
    await probe.started.wait()
    during = (await variet.client.get("/metrics")).text
    assert value_of(during, "variet_live_runs") == 1
    (run,) = [r for r in (await runs(variet)) if r["status"] == "running"]
    await variet.client.post(f"/runs/{run['id']}/stop")
    answers.append(await hanging)
    decision = {"decision": "approve", "wait": True}
    approval = asked["approvals"][0]["id"]
    answers.append((await variet.client.post(f"/approvals/{approval}", json=decision)).json())
    after = (await variet.client.get("/metrics")).text
    more = [value_of(after, s) - value_of(before, s) for s in samples]
    prompt = sum(a["usage"]["prompt_tokens"] for a in answers)
    completion = sum(a["usage"]["completion_tokens"] for a in answers)
    assert more == [3, 1, 1, 5, prompt, completion, 1, 1, 1]
    assert "made_up_name" not in after
    assert value_of(after, "variet_live_runs") == 0


async def runs(variet: Hands) -> list[dict[str, Any]]:
    return list((await variet.client.get("/runs")).json()["items"])


async def test_the_page_shows_text_as_text_only(variet: Hands) -> None:
    answer = await variet.client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert way not in answer.text
