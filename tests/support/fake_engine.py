"""A stand-in for llama-server: its flags, routes, answers and log, and faults on demand.

`python -m tests.support.fake_engine --model FILE --alias NAME --port 9000 --ctx-size 4096`. Flags
that it does not know are taken and ignored. What it does stands in `Behaviour`; each field can be
set by FAKE_ENGINE_FAULTS (JSON), then by the file `MODEL.faults.json` beside the model file, and
then by the request's own field `fake` (`{"fake": {"chunks": 80, "tokens_per_s": 80}}`). All are
read at the start and at each request, so a test can change a running engine.

A token is a word. With `journal` (or FAKE_ENGINE_JOURNAL) a line of JSON per event is appended to
that file: start, ready, stop, crash, request, done, cut (and sleep, wake_up); each with pid, alias,
port, context and time. VLLM_SERVER_DEV_MODE=1 opens vLLM's routes for sleep.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from tests.support.fake_replies import completion, error, models, scores, vectors
from tests.support.http_connection import HttpConnection, HttpRequest

BUILD = "b11669-fake"
PUBLIC = ("/health", "/v1/health")
GENERATING = ("/v1/chat/completions", "/chat/completions", "/v1/completions", "/completions")


@dataclass(frozen=True)
class Behaviour:
    """What it does. A field that is None or false changes nothing."""

    load_s: float = 0.0
    crash_load: bool = False  # ends with 1 after load_s
    oom_above: int | None = None  # contexts above it do not fit; 0: none does
    eat_mib: int = 0  # main memory that it takes after load_s
    never_ready: bool = False  # /health stays 503
    ignore_sigterm: bool = False
    hang: bool = False  # takes requests and never answers; /health is 200
    slow_headers_s: float = 0.0
    crash_after: int | None = None  # ends after that many chunks of a stream
    error_status: int | None = None  # what requests are answered with
    die_after_s: float | None = None  # ends by itself, that long after it was ready
    chunks: int = 8
    tokens_per_s: float = 0.0  # 0: without delay
    prompt_s: float = 0.0  # before the first token
    reasoning: int = 0  # chunks of thinking before the answer
    buffers: dict[str, float] | None = None  # MiB: {"CUDA0 model": 5678.0}
    journal: str | None = None

    @classmethod
    def read(cls, model: Path, asked: dict[str, Any] | None = None) -> "Behaviour":
        found = cls(journal=os.environ.get("FAKE_ENGINE_JOURNAL") or None)
        known = {field.name for field in fields(cls)}
        beside = model.with_name(f"{model.name}.faults.json")
        told = [json.loads(os.environ.get("FAKE_ENGINE_FAULTS") or "{}")]
        # A test may write it at this moment; half a file is as good as none.
        with contextlib.suppress(OSError, ValueError):
            told.append(json.loads(beside.read_text()))
        for values in (*told, asked or {}):
            if unknown := values.keys() - known:
                raise SystemExit(f"fake engine: no such behaviour: {', '.join(sorted(unknown))}")
            found = replace(found, **values)
        return found


@dataclass
class Flags:
    """Those of llama-server's flags that change what it does."""

    model: str = ""
    alias: str = ""
    host: str = "127.0.0.1"
    port: int = 8080
    ctx_size: int = 4096
    parallel: int = 4
    kv_unified: bool = False
    metrics: bool = False
    embeddings: bool = False
    reranking: bool = False
    slot_save_path: str = ""

    @classmethod
    def parse(cls, words: list[str]) -> "Flags":
        flags = cls()
        kinds = {field.name: type(getattr(flags, field.name)) for field in fields(cls)}
        for place, word in enumerate(words):
            name = word.removeprefix("--").replace("-", "_")
            if not word.startswith("--") or name not in kinds:
                continue
            setattr(flags, name, True if kinds[name] is bool else kinds[name](words[place + 1]))
        return flags

    @property
    def per_request(self) -> int:
        """Tokens: without --kv-unified the slots share the context in equal parts."""
        return self.ctx_size if self.kv_unified else self.ctx_size // max(1, self.parallel)


class FakeEngine:
    def __init__(self, flags: Flags) -> None:
        self.flags = flags
        self.key = os.environ.get("LLAMA_API_KEY")
        self.model = Path(flags.model)
        self.ready = False
        self.slots = asyncio.Semaphore(max(1, flags.parallel))
        self.cached: list[str] = []
        self.requests = 0
        self.tokens = 0
        self.sleeping = False
        self.eaten = b""
        self.ended = asyncio.Event()

    @property
    def name(self) -> str:
        return self.flags.alias or self.model.name

    def behaviour(self, asked: dict[str, Any] | None = None) -> Behaviour:
        return Behaviour.read(self.model, asked)

    def note(self, event: str, **more: Any) -> None:
        journal = self.behaviour().journal
        if not journal:
            return
        told = {
            "event": event,
            "alias": self.name,
            "pid": os.getpid(),
            "port": self.flags.port,
            "context": self.flags.ctx_size,
            "at": time.time(),
            **more,
        }
        line = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(line, json.dumps(told).encode() + b"\n")
        os.close(line)

    def crash(self, code: int, **more: Any) -> None:
        self.note("crash", code=code, **more)
        os._exit(code)

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._asked_to_end)
        loop.add_signal_handler(signal.SIGINT, self._asked_to_end)
        self.note("start", argv=sys.argv[1:])
        say("srv  llama_server: initializing ...")
        try:
            server = await loop.create_server(
                lambda: _Connection(self), self.flags.host, self.flags.port
            )
        except OSError:
            where = f"hostname: {self.flags.host}, port: {self.flags.port}"
            say(f"srv         start: couldn't bind HTTP server socket, {where}")
            say("srv  llama_server: exiting due to HTTP server error")
            return 1
        loading = loop.create_task(self._load())
        await self.ended.wait()
        loading.cancel()
        server.close()
        self.note("stop")
        return 0

    def _asked_to_end(self) -> None:
        if not self.behaviour().ignore_sigterm:
            say("srv    operator(): operator(): cleaning up before exit...")
            self.ended.set()

    async def _load(self) -> None:
        does = self.behaviour()
        say(f"srv    load_model: loading model '{self.model}'")
        say("load_tensors: loading model tensors, this can take a while... (load_mode = mmap)")
        if not self.model.exists():
            say(f"gguf_init_from_file: failed to open GGUF file '{self.model}'")
            self._fail()
        await self._dots(does.load_s)
        if does.crash_load:
            say(
                "llama_model_load: error loading model: tensor 'blk.3.ffn_up.weight' data is not ok"
            )
            self._fail()
        if does.oom_above is not None and self.flags.ctx_size > does.oom_above:
            for line in OUT_OF_MEMORY:
                say(line)
            self._fail()
        self.eaten = b"x" * (does.eat_mib * 2**20)
        for name, mib in (does.buffers or {}).items():
            say(f"load_tensors: {name:>18} buffer size = {mib:8.2f} MiB")
        if does.never_ready:
            return
        self.ready = True
        self.note("ready")
        say("srv  llama_server: model loaded")
        say(f"srv  llama_server: listening on http://{self.flags.host}:{self.flags.port}")
        if does.die_after_s is not None:
            await asyncio.sleep(does.die_after_s)
            self.crash(139)

    async def _dots(self, seconds: float) -> None:
        if seconds:
            for _ in range(20):
                await asyncio.sleep(seconds / 20)
                print("....", end="", file=sys.stderr, flush=True)
            say("")

    def _fail(self) -> None:
        say(f"srv    load_model: failed to load model, '{self.model}'")
        say("srv    operator(): operator(): cleaning up before exit...")
        say("srv  llama_server: exiting due to model loading error")
        self.crash(1, during="load")


# As llama.cpp prints it, with a CUDA card.
OUT_OF_MEMORY = (
    "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9216.00 MiB on device 0: cudaMalloc"
    " failed: out of memory",
    "alloc_tensor_range: failed to allocate CUDA0 buffer of size 9663676416",
    "llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv"
    " cache",
)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Connection(HttpConnection):
    def __init__(self, engine: FakeEngine) -> None:
        super().__init__()
        self._engine = engine
        self._under_way: dict[str, Any] | None = None
        self._sent = 0

    def left(self) -> None:
        self._over("cut")

    def _over(self, event: str) -> None:
        request, self._under_way = self._under_way, None
        if request is not None:
            self._engine.note(event, chunks=self._sent, **request)

    async def answer(self, request: HttpRequest) -> None:
        engine, path = self._engine, request.path
        if path in PUBLIC:
            self._health()
            return
        if engine.key and request.headers.get("authorization") != f"Bearer {engine.key}":
            self.write_json(*error(401, "Invalid API Key", "authentication_error"))
            return
        if not engine.ready:
            self.write_json(*error(503, "Loading model", "unavailable_error"))
            return
        if request.method == "GET":
            self._tell(path)
            return
        body = json.loads(request.body or b"{}")
        if path.startswith("/slots/"):
            self._slot(int(path.rsplit("/", 1)[1]), request.query["action"][0], body)
        elif path in GENERATING or path in ("/v1/embeddings", "/v1/rerank"):
            await self._ask(path, body)
        elif os.environ.get("VLLM_SERVER_DEV_MODE") == "1":
            self._develop(path)
        else:
            self.write_json(*error(404, "File Not Found", "not_found_error"))

    def _health(self) -> None:
        if self._engine.ready:
            self.write_json({"status": "ok"})
        else:
            self.write_json(*error(503, "Loading model", "unavailable_error"))

    def _tell(self, path: str) -> None:
        engine = self._engine
        if path in ("/v1/models", "/models"):
            self.write_json(models(engine.name, engine.flags.per_request))
        elif path == "/metrics" and engine.flags.metrics:
            self.write_text(
                f"llamacpp:tokens_predicted_total {engine.tokens}\n"
                f"llamacpp:requests_processing {engine.requests}\n"
            )
        elif path == "/props":
            self.write_json({"total_slots": engine.flags.parallel, "build_info": BUILD})
        elif path == "/is_sleeping" and os.environ.get("VLLM_SERVER_DEV_MODE") == "1":
            self.write_json({"is_sleeping": engine.sleeping})
        else:
            self.write_json(*error(404, "File Not Found", "not_found_error"))

    def _develop(self, path: str) -> None:
        """vLLM's routes of its developer mode."""
        if path in ("/sleep", "/wake_up"):
            self._engine.sleeping = path == "/sleep"
            self._engine.note(path.removeprefix("/"))
        self.write_json({"results": [None]} if path == "/collective_rpc" else {})

    def _slot(self, slot: int, action: str, body: dict[str, Any]) -> None:
        engine = self._engine
        if not engine.flags.slot_save_path:
            said = "This server does not support slots action. Start it with `--slot-save-path`"
            self.write_json(*error(501, said, "not_supported_error"))
            return
        file = Path(engine.flags.slot_save_path) / body["filename"]
        if action == "save":
            file.write_text(json.dumps(engine.cached))
            self.write_json({"id_slot": slot, "filename": file.name, "n_saved": len(engine.cached)})
        elif not file.exists():
            self.write_json(*error(400, "Unable to restore slot", "invalid_request_error"))
        else:
            engine.cached = json.loads(file.read_text())
            self.write_json(
                {"id_slot": slot, "filename": file.name, "n_restored": len(engine.cached)}
            )

    async def _ask(self, path: str, body: dict[str, Any]) -> None:
        engine = self._engine
        does = engine.behaviour(body.get("fake"))
        self._sent, self._under_way = 0, {"path": path, "user": body.get("user")}
        engine.note("request", **self._under_way)
        engine.requests += 1
        try:
            async with engine.slots:
                await self._serve_asked(path, body, does)
        finally:
            engine.requests -= 1
        self._over("done")

    async def _serve_asked(self, path: str, body: dict[str, Any], does: Behaviour) -> None:
        if does.hang:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(does.slow_headers_s)
        if does.error_status:
            self.write_json(*error(does.error_status, "told to fail", "server_error"))
        elif path == "/v1/embeddings":
            self._embed(body)
        elif path == "/v1/rerank":
            self.write_json(scores(self._engine.name, body))
        else:
            await self._generate(path, body, does)

    def _embed(self, body: dict[str, Any]) -> None:
        if self._engine.flags.embeddings:
            self.write_json(vectors(self._engine.name, body))
            return
        said = "This server does not support embeddings. Start it with `--embeddings`"
        self.write_json(*error(501, said, "not_supported_error"))

    async def _generate(self, path: str, body: dict[str, Any], does: Behaviour) -> None:
        engine, limit = self._engine, self._engine.flags.per_request
        answer = completion(engine.name, path, body, does.chunks, does.reasoning, engine.cached)
        if len(answer.prompt) > limit:
            said = (
                f"request ({len(answer.prompt)} tokens) exceeds the available context size"
                f" ({limit} tokens), try increasing it"
            )
            told, status = error(400, said, "exceed_context_size_error")
            told["error"].update(n_prompt_tokens=len(answer.prompt), n_ctx=limit)
            self.write_json(told, status)
            return
        engine.cached = answer.prompt
        started = time.perf_counter()
        await asyncio.sleep(does.prompt_s)
        if body.get("stream"):
            self.begin_stream()
        begun = time.perf_counter()
        for chunk in answer.chunks():
            if self._sent == does.crash_after:
                engine.crash(139, during=path)
            if does.tokens_per_s:
                await asyncio.sleep(begun + self._sent / does.tokens_per_s - time.perf_counter())
            if body.get("stream"):
                self.write_event(json.dumps(chunk))
            self._sent += 1
            engine.tokens += 1
        timings = answer.timings(begun - started, time.perf_counter() - begun)
        if not body.get("stream"):
            self.write_json(answer.whole(timings))
            return
        usage = (body.get("stream_options") or {}).get("include_usage", False)
        for last in answer.last(timings, usage):
            self.write_event(json.dumps(last))
        self.write_event("[DONE]")
        self.end_stream()


def main() -> int:
    return asyncio.run(FakeEngine(Flags.parse(sys.argv[1:])).run())


if __name__ == "__main__":
    # Not the interpreter's own end: it would wait for nothing that matters here.
    os._exit(main())
