"""What a run shows and does while the brain queues its request or loads its model."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from contracts.tiers import SwapProgress
from orchestrator.agent.waiting import words
from orchestrator.agent.wire import Comments
from tests.support.hands import Hands, hands
from tests.support.probe_tools import Probe
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripted_reply import script

QUEUED = {"engine": "big", "stage": "queued", "position": 2}
LOADING = {"engine": "big", "stage": "loading", "phase": "start", "progress": 0.42}
LATER = LOADING | {"progress": 0.47}
READY = {"engine": "big", "stage": "ready"}
FULL = {
    "message": "64 requests wait for big already.",
    "type": "rate_limit_error",
    "code": "queue_full",
    "param": None,
    "remedy": "Ask again in a moment.",
    "status": 429,
    "retry_after": 0,
}


def stages(events: list[dict[str, Any]], name: str = "engine") -> list[dict[str, Any]]:
    found = [e["data"] for e in events if e["type"] == "stage"]
    return [stage for stage in found if stage["name"] == name]


def end_of(events: list[dict[str, Any]]) -> dict[str, Any]:
    return dict(events[-1]["data"]["response"])


async def asked(state: Path, *replies: Any, **settings: Any) -> tuple[list[Any], ScriptedEngine]:
    async with ScriptedEngine() as engine, hands(engine.url, state, **settings) as h:
        engine.clear()
        engine.script(*replies)
        events = await h.events("Hello?", tier="deep")
    return events, engine


async def test_where_a_request_waits_is_a_stage_of_its_run(tmp_path: Path) -> None:
    waits = [QUEUED, LOADING, LATER, READY]
    events, _ = await asked(tmp_path, {"text": "Here.", "waits": waits})
    *began, ended = stages(events)
    assert [(s["status"], s["detail"]) for s in began] == [
        ("started", "deep: waiting, place 2"),
        ("started", "loading big 40 %"),
    ]
    assert (ended["status"], ended["ms"] >= 0) == ("finished", True)
    kinds = [(e["type"], e["data"].get("name")) for e in events]
    assert kinds.index(("stage", "engine")) < kinds.index(("token", None))
    assert end_of(events)["answer"] == "Here."


async def test_an_engine_that_tells_nothing_has_no_such_stage(tmp_path: Path) -> None:
    events, engine = await asked(tmp_path, {"text": "Here.", "waits": ["ping", "{}", "[1]"]})
    assert stages(events) == []
    assert end_of(events)["answer"] == "Here."
    assert engine.calls[0].headers["x-variet-priority"] == "chat"


async def test_a_wait_is_no_timeout_while_the_gateway_gives_signs_of_life(tmp_path: Path) -> None:
    waits = [QUEUED, *["ping"] * 10]
    reply = {"text": "Here.", "waits": waits, "wait_ms": 400}
    started = time.monotonic()
    events, _ = await asked(tmp_path, reply, first_token_timeout_s=2)
    assert time.monotonic() - started > 4
    assert end_of(events)["answer"] == "Here."


async def test_silence_after_the_last_sign_of_life_is_a_timeout(tmp_path: Path) -> None:
    reply = {"waits": [QUEUED], "wait_ms": 60_000}
    events, engine = await asked(tmp_path, reply, first_token_timeout_s=0.3)
    assert end_of(events)["error"]["code"] == "engine_timeout"
    assert engine.received == 1


async def test_signs_of_life_are_believed_for_so_long_only(tmp_path: Path) -> None:
    reply = {"waits": [QUEUED] * 10_000, "wait_ms": 20}
    events, engine = await asked(tmp_path, reply, first_token_timeout_s=30, engine_wait_s=0.5)
    error = end_of(events)["error"]
    assert error["code"] == "engine_wait_timeout"
    assert "ENGINE_WAIT_S=0.5" in error["message"]
    await asyncio.wait_for(engine.wait_for(disconnects=1), 30)


async def test_pings_of_an_engine_that_queues_nothing_put_no_limit_off(tmp_path: Path) -> None:
    reply = {"waits": ["ping"] * 10_000, "wait_ms": 20}
    events, _ = await asked(tmp_path, reply, first_token_timeout_s=0.3)
    assert end_of(events)["error"]["code"] == "engine_timeout"


async def test_an_error_event_is_the_run_s_error_with_its_remedy(tmp_path: Path) -> None:
    told = FULL | {"code": "engine_failed", "status": 503, "retry_after": None}
    events, engine = await asked(tmp_path, {"waits": [LOADING], "error_event": told})
    error = end_of(events)["error"]
    assert error == {"code": "engine_failed", "message": FULL["message"], "remedy": FULL["remedy"]}
    assert engine.received == 1, "it would be refused again"
    assert stages(events)[-1]["status"] == "finished"


async def test_a_full_queue_is_asked_again_before_the_first_token(tmp_path: Path) -> None:
    async with ScriptedEngine() as engine, hands(engine.url, tmp_path) as h:
        engine.clear()
        engine.script({"waits": [QUEUED], "error_event": FULL}, {"text": "Here."})
        events = await h.events("Hello?")
    assert end_of(events)["answer"] == "Here."
    assert [s["detail"] for s in stages(events, "retry")] == [FULL["message"]]


async def test_a_refusal_before_the_stream_keeps_the_gateway_s_remedy(tmp_path: Path) -> None:
    async with ScriptedEngine() as engine, hands(engine.url, tmp_path) as h:
        engine.clear()
        engine.script({"status": 409, "error_event": FULL | {"code": "engine_pinned"}})
        error = end_of(await h.events("Hello?"))["error"]
    assert error == {"code": "engine_pinned", "message": FULL["message"], "remedy": FULL["remedy"]}


async def test_each_engine_call_has_an_id_that_the_brain_and_the_record_share(
    tmp_path: Path,
) -> None:
    call = {"tool_calls": [{"name": "peek", "arguments": {"text": "a"}}]}
    async with (
        ScriptedEngine() as engine,
        hands(engine.url, tmp_path, Probe().server) as h,
    ):
        engine.clear()
        engine.script(call, {"status": 503}, {"text": "Here."})
        answer = await h.ask("Hello?")
        kept = (await h.client.get(f"/runs/{answer['run_id']}/exchanges")).json()["items"]
    sent = [call.headers["x-request-id"] for call in engine.calls]
    assert sent == [f"{answer['run_id']}.{n}" for n in (1, 2, 3)]
    assert [one["request_id"] for one in kept] == sent


async def test_the_first_words_to_an_engine_wait_behind_everybody_else(tmp_path: Path) -> None:
    async with ScriptedEngine() as engine, hands(engine.url, tmp_path):
        assert [c.headers["x-variet-priority"] for c in engine.calls] == ["background"]


async def test_a_model_that_loads_costs_no_readiness(tmp_path: Path) -> None:
    async with ScriptedEngine() as engine:
        engine.script({"waits": [LOADING], "wait_ms": 60_000})
        async with hands(engine.url, tmp_path) as h:  # which waits until it is ready
            assert (await h.client.get("/ready")).status_code == 200


async def test_who_stops_a_run_that_waits_leaves_the_queue(tmp_path: Path) -> None:
    async with ScriptedEngine() as engine, hands(engine.url, tmp_path) as h:
        engine.clear()
        run = asyncio.create_task(h.events(script({"waits": [QUEUED], "wait_ms": 60_000})))
        await asyncio.wait_for(engine.wait_for(requests=1), 30)
        run_id = await _running(h)
        await h.client.post(f"/runs/{run_id}/stop")
        await asyncio.wait_for(engine.wait_for(disconnects=1), 30)
        assert end_of(await run)["status"] == "stopped"


async def _running(h: Hands) -> str:
    return str((await h.client.get("/runs")).json()["items"][0]["id"])


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (QUEUED, "balanced: waiting, place 2"),
        (QUEUED | {"position": 0}, "balanced: waiting for other answers to end"),
        (QUEUED | {"stage": "draining"}, "balanced: waiting for other answers to end"),
        (LOADING | {"progress": None}, "loading big"),
        (LOADING | {"phase": "stop"}, "balanced: unloading another model"),
        ({"engine": "", "stage": "queued", "detail": "waking the brain"}, "waking the brain"),
    ],
)
def test_it_is_told_in_words(told: dict[str, Any], said: str) -> None:
    assert words(SwapProgress(**told), "balanced") == said


def test_comments_are_read_however_the_bytes_are_cut() -> None:
    whole = b'\r\n: {"engine": "a", "stage": "queued"}\n\n: ping\n\ndata: {}\n\n: {"engine": "b"'
    for cut in range(1, 12):
        seen: list[SwapProgress] = []
        comments = Comments(seen.append)
        pieces = [whole[at : at + cut] for at in range(0, len(whole), cut)]
        assert not all(comments.feed(piece) for piece in pieces), "it ends with the first event"
        assert [one.engine for one in seen] == ["a", "a"], cut


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    comments = Comments(lambda _: None)
    assert comments.feed(b": " + b"x" * 60_000)
    assert not comments.feed(b"x" * 60_000)
