"""An orchestrator of a few lines: routes answer what a test says, and streams can break."""

import json
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

RUN = {"run_id": "r1", "thread_id": "t1", "model": "scripted"}


def sse(number: int, kind: str, data: dict[str, Any]) -> bytes:
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode()


def response(status: str = "completed", answer: str = "", **more: Any) -> dict[str, Any]:
    return {
        "thread_id": "t1",
        "run_id": "r1",
        "status": status,
        "answer": answer,
        "model": "scripted",
        **more,
    }


def end(number: int, status: str = "completed", answer: str = "", **more: Any) -> bytes:
    return sse(number, "end", {"status": status, "response": response(status, answer, **more)})


def approval(name: str = "a1", tool: str = "file_operations", **arguments: Any) -> dict[str, Any]:
    return {
        "id": name,
        "run_id": "r1",
        "thread_id": "t1",
        "tool_call_id": "c1",
        "tool": tool,
        "arguments": arguments,
        "arguments_hash": "0" * 64,
        "reason": "it writes a file",
        "expires_at": "2030-01-01T00:00:00Z",
        "status": "pending",
    }


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Scripted:
    """`routes` maps "METHOD /path" to a JSON body, a (status, body) pair, or a function that gives
    one of them; or to a list, the parts of a stream. `streams` are answered in turn to POST /chat
    and GET .../events: each is one connection's bytes, or parts of them with events to wait for in
    between."""

    url: str = ""
    routes: dict[str, Any] = field(default_factory=dict)
    streams: deque[bytes | list[bytes | Event]] = field(default_factory=deque)
    seen: list[Seen] = field(default_factory=list)

    def requests(self, method: str, path: str) -> list[Seen]:
        return [one for one in self.seen if (one.method, one.path.split("?")[0]) == (method, path)]


@contextmanager
def scripted_orchestrator() -> Iterator[Scripted]:
    script = Scripted()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("content-length", "0"))
            text = self.rfile.read(length)
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = json.loads(text) if text else None
            script.seen.append(Seen(self.command, self.path, headers, body))
            path = self.path.split("?")[0]
            known = script.routes.get(f"{self.command} {path}")
            if known is not None:
                known = known() if callable(known) else known
                if isinstance(known, list):
                    self._stream(known)
                    return
                status, given = known if isinstance(known, tuple) else (200, known)
                self._send(status, json.dumps(given).encode())
            elif path == "/chat" or path.endswith("/events"):
                self._stream(script.streams.popleft())
            else:
                error = {"code": "not_found", "message": f"No {path}.", "remedy": "Look again."}
                self._send(404, json.dumps({"error": error}).encode())

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _stream(self, parts: bytes | list[bytes | Event]) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            for part in [parts] if isinstance(parts, bytes) else parts:
                if isinstance(part, bytes):
                    self.wfile.write(part)
                else:
                    part.wait(timeout=30)

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
