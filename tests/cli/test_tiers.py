"""`variet tiers`, `variet swap` and `variet wake` against a gateway of a few lines."""

import json
import socket
from collections.abc import Iterator
from threading import Event, Thread
from typing import Any

import pytest

from cli import tiers_wake
from cli.tiers_swap import Steps
from contracts.tiers import SwapProgress, TiersStatus
from contracts.wake import magic_packet, wake
from tests.cli.conftest import Variet
from tests.support.scripted_orchestrator import Scripted, scripted_orchestrator

MAC = "1c:69:7a:0b:2d:3e"
FAST = {
    "name": "qwen3-4b",
    "model": "qwen3-4b",
    "kind": "chat",
    "engine": "llama.cpp",
    "tiers": ["fast"],
    "state": "ready",
    "context": 16_384,
    "needs_mib": {"card0": 4_000},
    "in_flight": 1,
    "queued": 2,
    "tokens_per_s": 61.24,
    "idle_s": 75,
}
DEEP = FAST | {
    "name": "big",
    "tiers": ["deep"],
    "state": "loading",
    "phase": "start",
    "progress": 0.4,
    "pinned": True,
    "context_reduced": True,
    "tokens_per_s": None,
    "idle_s": None,
    "error": {"code": "engine_failed", "message": "It crashed.", "remedy": "Read its log."},
}
CARD = {
    "device": "card0",
    "name": "RTX 3060",
    "total": 12_288,
    "budget": 12_000,
    "reserved": 6_000,
    "free": 5_900,
}
STATUS: dict[str, Any] = {
    "engines": [FAST, DEEP],
    "devices": [CARD],
    "locked": "big",
    "default": "qwen3-4b",
}
BUSY = {"code": "engine_pinned", "message": "fast is pinned.", "remedy": "variet tiers unpin fast"}


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    with scripted_orchestrator() as script:
        monkeypatch.setenv("OPENAI_COMPAT_URL", f"{script.url}/v1")
        monkeypatch.setenv("OPENAI_COMPAT_KEY", "user-key")
        monkeypatch.setenv("VARIET_ROLE", "hands")
        for name in ("GATEWAY_ADMIN_KEY", "BRAIN_MAC"):
            monkeypatch.delenv(name, raising=False)
        yield script


def sse(event: str, data: Any) -> bytes:
    return f"event: {event}\ndata: {json.dumps(data)}\n\n".encode()


def progress(**more: Any) -> bytes:
    return sse("progress", SwapProgress(engine="big", **more).model_dump())


def test_the_engines_are_a_table_and_each_device_a_bar(
    gateway: Scripted, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.routes["GET /tiers"] = STATUS
    assert variet("tiers") == 0
    head, fast, deep, error, _, card = [
        line.rstrip() for line in capsys.readouterr().out.splitlines()
    ]
    assert head.split() == [
        "tier",
        "engine",
        "state",
        "context",
        "in",
        "flight",
        "queued",
        "tok/s",
        "idle",
    ]
    assert fast.split() == [
        "fast",
        "qwen3-4b",
        "ready",
        "16384",
        "1",
        "2",
        "61.2",
        *["1", "min", "15", "s"],
    ]
    assert "loading start 40% (pinned, locked)" in deep
    assert "16384 (reduced)" in deep
    assert error == "big: It crashed. Read its log."
    assert card == f"card0  [{'#' * 12}{'-' * 12}] 6000 of 12000 MiB reserved, 5900 free  RTX 3060"
    assert gateway.seen[0].headers["authorization"] == "Bearer user-key"


def test_the_admin_key_is_sent_where_there_is_one(
    gateway: Scripted, variet: Variet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_ADMIN_KEY", "admin-key")
    gateway.routes["GET /tiers"] = STATUS
    assert variet("tiers", "--json") == 0
    assert gateway.seen[0].headers["authorization"] == "Bearer admin-key"


def test_json_is_the_gateway_s_own(
    gateway: Scripted, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.routes["GET /tiers"] = STATUS
    assert variet("tiers", "--json") == 0
    assert TiersStatus.model_validate_json(capsys.readouterr().out).locked == "big"


def test_it_is_watched_until_it_is_interrupted(
    gateway: Scripted,
    variet: Variet,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter([STATUS, STATUS | {"locked": None}])

    def wait(_: float) -> None:
        if len(gateway.seen) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("cli.tiers.time.sleep", wait)
    gateway.routes["GET /tiers"] = lambda: next(answers)
    assert variet("tiers", "--json", "--watch") == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["locked"] for one in shown] == ["big", None]


@pytest.mark.parametrize(
    ("words", "path", "body"),
    [
        (("unload", "fast"), "/tiers/fast/unload", None),
        (("pin", "fast"), "/tiers/fast/pin", {"on": True}),
        (("unpin", "fast"), "/tiers/fast/pin", {"on": False}),
        (("lock", "qwen3-4b@fast"), "/tiers/qwen3-4b%40fast/lock", {"on": True}),
        (("unlock", "fast"), "/tiers/fast/lock", {"on": False}),
    ],
)
def test_each_verb_calls_its_route(
    words: tuple[str, ...], path: str, body: Any, gateway: Scripted, variet: Variet
) -> None:
    gateway.routes[f"POST {path}"] = {}
    assert variet("tiers", *words) == 0
    assert [(one.method, one.path, one.body) for one in gateway.seen] == [("POST", path, body)]


def test_a_refusal_is_shown_with_its_remedy(
    gateway: Scripted, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.routes["POST /tiers/fast/unload"] = (409, {"error": BUSY})
    assert variet("tiers", "unload", "fast") == 1
    assert capsys.readouterr().err == "error: fast is pinned.\n  variet tiers unpin fast\n"


def test_a_server_that_is_no_gateway_is_named_as_such(
    gateway: Scripted, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.routes["GET /tiers"] = (404, {"error": {"message": "no route", "type": "x"}})
    assert variet("tiers") == 1
    told = capsys.readouterr().err
    assert f"{gateway.url} answered 404, but not as the gateway does." in told
    assert "OPENAI_COMPAT_URL" in told


def test_a_reload_tells_what_it_changed(
    gateway: Scripted, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.routes["POST /reload"] = {"added": ["a", "b"], "removed": ["c"]}
    assert variet("tiers", "reload") == 0
    assert capsys.readouterr().out == "Read again: added a, b; removed c.\n"


def test_logs_cannot_steer_the_terminal(
    gateway: Scripted, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.routes["GET /tiers/fast/logs"] = [b"one\ntwo \x1b[2J\nthr", "ée\n".encode()]
    assert variet("tiers", "logs", "fast", "--follow") == 0
    assert capsys.readouterr().out == "one\ntwo \\x1b[2J\nthrée\n"
    assert gateway.seen[0].path == "/tiers/fast/logs?follow=1"


def test_a_swap_shows_each_step_with_its_seconds(
    gateway: Scripted, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.routes["POST /tiers/deep/load"] = [
        progress(stage="queued", position=2),
        progress(stage="draining"),
        progress(stage="loading", phase="stop"),
        progress(stage="loading", phase="start", progress=0.4),
        progress(stage="loading", phase="start", progress=0.9),
        progress(stage="ready"),
        sse("done", {}),
    ]
    assert variet("swap", "deep") == 0
    *steps, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in steps] == ["queue", "drain", "stop", "start"]
    assert last.startswith("deep (big) is ready after ")
    assert gateway.seen[0].headers["accept"] == "text/event-stream"


def test_the_seconds_of_a_step_run_from_its_first_word_to_the_next_step_s() -> None:
    now = 100.0
    steps = Steps(lambda: now)
    steps.take(SwapProgress(engine="big", stage="queued", position=1))
    now = 103.0
    assert steps.take(SwapProgress(engine="big", stage="loading", phase="start"))
    now = 104.0
    assert not steps.take(SwapProgress(engine="big", stage="loading", phase="start", progress=0.5))
    now = 110.5
    steps.end()
    assert steps.done == [("queue", 3.0), ("start", 7.5)]
    assert steps.total_s == 10.5


def test_a_load_that_fails_ends_with_the_gateway_s_error(
    gateway: Scripted, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    error = {"code": "out_of_memory", "message": "12 of 10 MiB.", "remedy": "Lower the context."}
    gateway.routes["POST /tiers/deep/load"] = [
        progress(stage="loading", phase="start"),
        b": ping\n\n",
        sse("error", error),
    ]
    assert variet("swap", "deep") == 1
    assert capsys.readouterr().err == "error: 12 of 10 MiB.\n  Lower the context.\n"


def test_a_load_that_breaks_off_is_no_success(
    gateway: Scripted, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.routes["POST /tiers/deep/load"] = [progress(stage="loading", phase="start")]
    assert variet("swap", "deep") == 1
    assert "broke off while it loaded deep" in capsys.readouterr().err


def test_who_leaves_a_swap_is_told_what_becomes_of_it(
    gateway: Scripted,
    variet: Variet,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leave = Event()

    def interrupted(*_: Any) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr("cli.tiers_swap.Steps.take", interrupted)
    gateway.routes["POST /tiers/deep/load"] = [progress(stage="queued", position=1), leave]
    asked = Thread(target=leave.set)
    asked.start()
    assert variet("swap", "deep") == 130
    asked.join()
    assert "Unless somebody else waits for deep, its load ends now." in capsys.readouterr().out


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket that gets what is sent to wake the brain."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(30)
        port = receiver.getsockname()[1]
        send = wake
        monkeypatch.setattr(tiers_wake, "wake", lambda mac, _: send(mac, ["127.0.0.1"], port))
        yield receiver


def test_waking_needs_the_card_s_address(
    gateway: Scripted, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert variet("wake") == 1
    assert "BRAIN_MAC is not set" in capsys.readouterr().err


def test_a_brain_that_does_not_wake_is_said_after_the_time_it_has(
    gateway: Scripted,
    variet: Variet,
    received: socket.socket,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        monkeypatch.setenv("OPENAI_COMPAT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
        monkeypatch.setenv("BRAIN_MAC", MAC)
        monkeypatch.setenv("BRAIN_WAKE_S", "0.01")
        assert variet("wake") == 1
    assert received.recvfrom(2_048)[0] == magic_packet(MAC)
    assert "did not answer within BRAIN_WAKE_S=0.01 s" in capsys.readouterr().err


def test_a_swap_wakes_a_brain_that_sleeps_and_leaves_one_that_answers_alone(
    gateway: Scripted,
    variet: Variet,
    received: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BRAIN_MAC", MAC)
    gateway.routes["POST /tiers/deep/load"] = [sse("done", {})]
    assert variet("swap", "deep") == 0
    received.setblocking(False)
    with pytest.raises(BlockingIOError):
        received.recvfrom(2_048)
    received.settimeout(30)
    asked = iter([False, False, True])
    monkeypatch.setattr("cli.tiers_client.Gateway.answers", lambda _: next(asked))
    monkeypatch.setattr(tiers_wake, "AGAIN_S", 0)
    assert variet("swap", "deep") == 0
    assert received.recvfrom(2_048)[0] == magic_packet(MAC)
