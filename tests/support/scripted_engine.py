"""An OpenAI-wire server that answers by script: exact timings, faults on demand, everything logged.

A test double for contract, cancellation, fault and performance tests; what it says is never a
model's doing. In a test: `async with ScriptedEngine() as engine: ... engine.url`. As a process:
`python -m tests.support.scripted_engine --port 9000`.

Routes: GET /health, GET /v1/models, POST /v1/chat/completions; POST /script queues replies
`{"replies": [...], "fallback": {...}}`; GET /log tells requests and disconnects, with
`?requests=N&disconnects=N` it answers when there are that many; DELETE /log clears all.
Which reply: the queue first; else a `script:[...]` user message (see `scripted_reply.script`);
else the fallback. For a requested schema without a scripted reply: a minimal instance.
"""

import argparse
import asyncio
import json
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from pydantic import ValidationError

from tests.support.http_connection import HttpConnection, HttpRequest
from tests.support.scripted_reply import Reply, deltas, scripted_reply, usage, whole_message

MODEL = "scripted"
FALLBACK = Reply(text="This is a scripted answer.")
ERROR_TYPES = {
    400: "exceed_context_size_error",
    401: "authentication_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "unavailable_error",
}


@dataclass
class Call:
    """One chat request as the engine saw it. Times are `time.time()` in seconds."""

    body: dict[str, Any]
    headers: dict[str, str]
    at: float = field(default_factory=time.time)
    tokens_sent: int = 0
    finished: bool = False
    disconnected: bool = False
    disconnected_at: float | None = None


class ScriptedEngine:
    """The server. `calls` holds the newest `log_limit` requests, oldest first."""

    def __init__(self, port: int = 0, key: str | None = None, log_limit: int = 1_000) -> None:
        self.port = port
        self.key = key
        self.calls: deque[Call] = deque(maxlen=log_limit)
        self.queue: deque[Reply] = deque()
        self.fallback = FALLBACK
        self.received = 0
        self.disconnects = 0
        self._changed = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self.connections: set[_Connection] = set()
        self._notices: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Base URL as OPENAI_COMPAT_URL takes it."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen. After `stop` the same port is taken again."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), "127.0.0.1", self.port, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and reset every open connection."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self.connections):
            connection.drop()
        await self._server.wait_closed()
        self._server = None

    def script(self, *replies: Reply | dict[str, Any]) -> None:
        """Queue replies for the next requests, whoever makes them."""
        self.queue.extend(r if isinstance(r, Reply) else Reply(**r) for r in replies)

    async def wait_for(self, requests: int = 0, disconnects: int = 0) -> None:
        """Return when that many requests have come and that many clients have left mid-answer."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: self.received >= requests and self.disconnects >= disconnects
            )

    def clear(self) -> None:
        self.calls.clear()
        self.queue.clear()
        self.fallback = FALLBACK
        self.received = self.disconnects = 0

    def log(self) -> dict[str, Any]:
        return {
            "received": self.received,
            "disconnects": self.disconnects,
            "calls": [asdict(call) for call in self.calls],
        }

    def next_reply(self, body: dict[str, Any]) -> Reply:
        return self.queue.popleft() if self.queue else scripted_reply(body, self.fallback)

    def received_call(self, call: Call) -> None:
        self.calls.append(call)
        self.received += 1
        self._notify()

    def lost_client(self, call: Call) -> None:
        call.disconnected = True
        call.disconnected_at = time.time()
        self.disconnects += 1
        self._notify()

    def _notify(self) -> None:
        task = asyncio.get_running_loop().create_task(self._wake())
        self._notices.add(task)
        task.add_done_callback(self._notices.discard)

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()


class _Connection(HttpConnection):
    def __init__(self, engine: ScriptedEngine) -> None:
        super().__init__()
        self._engine = engine
        self._call: Call | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._engine.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._engine.connections.discard(self)
        super().connection_lost(error)

    def left(self) -> None:
        if self._call is not None and not self._call.finished:
            self._engine.lost_client(self._call)

    def drop(self) -> None:
        """The engine is gone; that is not the client's doing."""
        if self._call is not None:
            self._call.finished = True
        self.reset()

    async def answer(self, request: HttpRequest) -> None:
        engine = self._engine
        guarded = engine.key is not None and request.path.startswith("/v1")
        if guarded and request.headers.get("authorization") != f"Bearer {engine.key}":
            self._error(401, "Invalid API Key")
            return
        match request.method, request.path:
            case "GET", "/health":
                self.write_json({"status": "ok"})
            case "GET", "/v1/models":
                self.write_json({"object": "list", "data": [{"id": MODEL, "object": "model"}]})
            case "POST", "/v1/chat/completions":
                await self._chat(json.loads(request.body), request.headers)
                self._call = None
            case "POST", "/script":
                self._script(request.body)
            case "GET", "/log":
                wanted = {key: int(values[0]) for key, values in request.query.items()}
                await engine.wait_for(**wanted)
                self.write_json(engine.log())
            case "DELETE", "/log":
                engine.clear()
                self.write_json({})
            case _:
                self._error(404, f"no route {request.method} {request.path}")

    def _script(self, raw: bytes) -> None:
        wanted = json.loads(raw)
        try:
            self._engine.script(*wanted.get("replies", []))
            if "fallback" in wanted:
                self._engine.fallback = Reply(**wanted["fallback"])
        except ValidationError as error:
            self._error(400, str(error))
            return
        self.write_json({"queued": len(self._engine.queue)})

    async def _chat(self, body: dict[str, Any], headers: dict[str, str]) -> None:
        call = self._call = Call(body, headers)
        self._engine.received_call(call)
        try:
            reply = self._engine.next_reply(body)
        except (ValueError, LookupError, TypeError) as error:
            call.finished = True
            self._error(400, f"bad request or script: {error!r}")
            return
        if reply.first_delay_ms:
            await asyncio.sleep(reply.first_delay_ms / 1_000)
        if reply.status != 200:
            call.finished = True
            if reply.error_event is not None:
                self.write_json({"error": reply.error_event}, reply.status)
                return
            self._error(reply.status, reply.error or f"scripted error {reply.status}")
            return
        await (self._stream if body.get("stream") else self._whole)(reply, body, call)

    async def _whole(self, reply: Reply, body: dict[str, Any], call: Call) -> None:
        steps = list(deltas(reply))
        if reply.delay_ms:
            await asyncio.sleep(reply.delay_ms * len(steps) / 1_000)
        if reply.fault:
            await self._break(reply, call)
            return
        call.tokens_sent, call.finished = len(steps), True
        choice = {"index": 0, "message": whole_message(reply), "finish_reason": reply.finish()}
        self.write_json(
            {
                **_envelope(body, "chat.completion"),
                "choices": [choice],
                "usage": usage(body, reply, len(steps)),
            }
        )

    async def _stream(self, reply: Reply, body: dict[str, Any], call: Call) -> None:
        if reply.fault and reply.fault_after == 0 and reply.fault != "eof":
            await self._break(reply, call)
            return
        self.begin_stream()
        await self._wait(reply, call)
        if reply.error_event is not None:
            self._write({"error": reply.error_event})
            call.finished = True
            self.end_stream()
            return
        frame = _envelope(body, "chat.completion.chunk")
        self._event(frame, {"role": "assistant", "content": None}, None)
        loop = asyncio.get_running_loop()
        start = loop.time()
        for sent, delta in enumerate(deltas(reply)):
            if sent and reply.delay_ms:
                # Against the start, so that the delays do not add up their own lateness.
                await asyncio.sleep(start + sent * reply.delay_ms / 1_000 - loop.time())
            if reply.fault and sent == reply.fault_after:
                break
            self._event(frame, delta, None)
            call.tokens_sent = sent + 1
        if reply.fault:
            await self._break(reply, call, streaming=True)
            return
        self._event(frame, {}, reply.finish())
        if (body.get("stream_options") or {}).get("include_usage"):
            counted = usage(body, reply, call.tokens_sent)
            self._write({**frame, "choices": [], "usage": counted})
        call.finished = True
        self.write_event("[DONE]")
        self.end_stream()

    async def _wait(self, reply: Reply, call: Call) -> None:
        """Say what a gateway says of a request that waits, if it is asked to."""
        if call.headers.get("x-variet-progress") != "1":
            return
        for told in reply.waits:
            self.write_comment(told if isinstance(told, str) else json.dumps(told))
            await asyncio.sleep(reply.wait_ms / 1_000)

    async def _break(self, reply: Reply, call: Call, streaming: bool = False) -> None:
        if reply.fault == "hang":
            await asyncio.get_running_loop().create_future()
        call.finished = True
        if reply.fault == "reset":
            self.reset()
        elif reply.fault == "eof" and streaming:
            self.end_stream()
        else:
            self.close()

    def _event(self, frame: dict[str, Any], delta: dict[str, Any], finish: str | None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        self._write({**frame, "choices": [choice]})

    def _write(self, value: dict[str, Any]) -> None:
        self.write_event(json.dumps(value, ensure_ascii=False))

    def _error(self, status: int, message: str) -> None:
        kind = ERROR_TYPES.get(status, "invalid_request_error")
        self.write_json({"error": {"message": message, "type": kind, "code": status}}, status)


def _envelope(body: dict[str, Any], kind: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-scripted",
        "object": kind,
        "created": int(time.time()),
        "model": body.get("model") or MODEL,
    }


async def _run(port: int, key: str | None) -> None:
    async with ScriptedEngine(port, key, log_limit=100) as engine:
        print(json.dumps({"ready": True, "url": engine.url}), flush=True)
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="An OpenAI-wire server that answers by script.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--key")
    options = parser.parse_args()
    try:
        asyncio.run(_run(options.port, options.key))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
