import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

KEY = "sk-fake"


class Engine:
    """The fake engine as a process, with a model file of its own."""

    def __init__(self, folder: Path, *flags: str, **behaviour: Any) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.model = folder / "model.gguf"
        self.model.write_bytes(b"GGUF")
        self.journal = folder / "journal"
        words = ("--model", str(self.model), "--alias", "m", "--port", str(self.port), *flags)
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = self._spawn(words, json.dumps(behaviour), log)

    def _spawn(
        self, words: tuple[str, ...], faults: str, log: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            (sys.executable, "-m", "tests.support.fake_engine", *words),
            env={
                **os.environ,
                "LLAMA_API_KEY": KEY,
                "FAKE_ENGINE_FAULTS": faults,
                "FAKE_ENGINE_JOURNAL": str(self.journal),
            },
            stderr=log,
        )

    def get(self, path: str, key: str | None = None) -> tuple[int, Any]:
        return self._send(urllib.request.Request(f"http://127.0.0.1:{self.port}{path}"), key)

    def post(self, path: str, body: Any, key: str | None = KEY) -> tuple[int, Any]:
        data = json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.port}{path}"
        return self._send(urllib.request.Request(url, data), key)

    def _send(self, request: urllib.request.Request, key: str | None) -> tuple[int, Any]:
        if key:
            request.add_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, text = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                status, text = error.code, error.read().decode()
        return status, json.loads(text) if text.startswith("{") else text

    def wait(self, status: int = 200) -> None:
        until(lambda: self.health() == status)

    def health(self) -> int | None:
        try:
            return self.get("/health")[0]
        except OSError:
            return None

    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.journal.read_text().splitlines()]

    def end(self) -> None:
        self.process.kill()
        self.process.wait(60)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    begun: list[Engine] = []

    def begin(*flags: str, **behaviour: Any) -> Engine:
        begun.append(Engine(tmp_path, *flags, **behaviour))
        return begun[-1]

    yield begin
    for engine in begun:
        engine.end()


def asked(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "one two three"}], **more}


def test_it_loads_answers_and_ends_on_sigterm(start: Callable[..., Engine]) -> None:
    engine = start("--unknown", "flag", "--metrics")
    engine.wait()
    assert engine.get("/v1/models")[0] == 401
    assert engine.get("/v1/models", KEY)[1]["data"][0]["id"] == "m"
    status, answer = engine.post("/v1/chat/completions", asked())
    assert (status, answer["usage"]["completion_tokens"]) == (200, 8)
    assert answer["timings"]["predicted_n"] == 8
    assert "tokens_predicted_total 8" in engine.get("/metrics", KEY)[1]
    engine.process.send_signal(signal.SIGTERM)
    assert engine.process.wait(60) == 0
    assert engine.events() == ["start", "ready", "request", "done", "stop"]


def test_a_stream_ends_with_usage_timings_and_done(start: Callable[..., Engine]) -> None:
    engine = start()
    engine.wait()
    body = asked(
        stream=True,
        stream_options={"include_usage": True},
        fake={"chunks": 3, "tokens_per_s": 100, "reasoning": 2},
    )
    lines = [line[6:] for line in engine.post("/v1/chat/completions", body)[1].split("\n\n")[:-1]]
    assert lines[-1] == "[DONE]"
    parsed = [json.loads(line) for line in lines[:-1]]
    assert parsed[-1]["usage"]["total_tokens"] == 3 + 5
    assert parsed[-1]["timings"]["predicted_ms"] >= 39
    assert [list(p["choices"][0]["delta"]) for p in parsed[:-1]] == [
        *[["reasoning_content"]] * 2,
        *[["content"]] * 3,
        [],
    ]


def test_a_prompt_beyond_a_slots_context_is_refused(start: Callable[..., Engine]) -> None:
    engine = start("--ctx-size", "8", "--parallel", "4")
    engine.wait()
    status, answer = engine.post("/v1/chat/completions", asked())
    assert status == 400
    assert answer["error"]["type"] == "exceed_context_size_error"
    assert (answer["error"]["n_prompt_tokens"], answer["error"]["n_ctx"]) == (3, 2)


def test_embeddings_and_reranking_answer(start: Callable[..., Engine]) -> None:
    engine = start("--embeddings")
    engine.wait()
    assert len(engine.post("/v1/embeddings", {"input": ["a", "b"]})[1]["data"]) == 2
    ranked = engine.post("/v1/rerank", {"query": "a b", "documents": ["c", "a b"]})[1]
    assert [found["relevance_score"] for found in ranked["results"]] == [0.0, 2.0]


def test_slots_are_saved_and_restored(start: Callable[..., Engine], tmp_path: Path) -> None:
    engine = start("--slot-save-path", str(tmp_path))
    engine.wait()
    engine.post("/v1/chat/completions", asked())
    assert engine.post("/slots/0?action=save", {"filename": "kept"})[1]["n_saved"] == 3
    other = start("--slot-save-path", str(tmp_path))
    other.wait()
    assert other.post("/slots/0?action=restore", {"filename": "kept"})[1]["n_restored"] == 3
    assert other.post("/v1/chat/completions", asked())[1]["timings"]["cache_n"] == 3


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ({"crash_load": True}, "failed to load model"),
        ({"oom_above": 100}, "cudaMalloc failed: out of memory"),
    ],
)
def test_a_failing_load_says_what_llama_cpp_says(
    start: Callable[..., Engine], behaviour: dict[str, Any], said: str
) -> None:
    engine = start("--ctx-size", "4096", **behaviour)
    assert engine.process.wait(60) == 1
    assert said in engine.log.read_text()
    assert engine.events() == ["start", "crash"]


def test_a_slow_load_answers_503_and_then_200(start: Callable[..., Engine]) -> None:
    engine = start(never_ready=True)
    engine.wait(503)
    slow = start(load_s=1.0)
    slow.wait(503)
    slow.wait(200)
    assert slow.process.poll() is None


def test_it_breaks_off_in_the_middle_of_a_stream(start: Callable[..., Engine]) -> None:
    engine = start()
    engine.wait()
    with pytest.raises(http.client.IncompleteRead):
        engine.post("/v1/completions", asked(stream=True, fake={"crash_after": 2}))
    assert engine.process.wait(60) == 139


def test_the_file_beside_the_model_changes_a_running_engine(start: Callable[..., Engine]) -> None:
    engine = start()
    engine.wait()
    beside = engine.model.with_name("model.gguf.faults.json")
    beside.write_text(json.dumps({"error_status": 500, "ignore_sigterm": True}))
    engine.process.send_signal(signal.SIGTERM)
    assert engine.post("/v1/chat/completions", asked())[0] == 500
    beside.write_text("{}")
    assert engine.post("/v1/chat/completions", asked())[0] == 200
    engine.process.send_signal(signal.SIGTERM)
    assert engine.process.wait(60) == 0


async def test_a_client_that_leaves_is_noted_as_cut(start: Callable[..., Engine]) -> None:
    engine = start()
    engine.wait()
    body = json.dumps(asked(stream=True, fake={"chunks": 9_999, "tokens_per_s": 50})).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", engine.port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nAuthorization: Bearer sk-fake\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    await reader.readuntil(b"data:")
    writer.close()
    await asyncio.to_thread(until, lambda: engine.events()[-1] == "cut")
