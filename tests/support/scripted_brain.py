"""The gateway of a few lines: tiers, embeddings and reranking on one port, and each can go wrong.

A test double: what it says is never a model's doing.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

KEY = "0123456789abcdef-brain"
ADMIN_KEY = "fedcba9876543210-admin"
TIERS = ("fast", "balanced", "deep")


@dataclass
class Brain:
    """`answers` maps a path to (status, JSON body) in place of what it says by itself; `open` are
    paths that ask for no key."""

    port: int = 0
    words: list[str] = field(default_factory=lambda: ["one, ", "two, ", "three"])
    vectors: dict[str, list[float]] = field(default_factory=dict)
    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    broken: bool = False
    seen: list[tuple[str, Any]] = field(default_factory=list)


@contextmanager
def scripted_brain(key: str = KEY, admin_key: str = ADMIN_KEY) -> Iterator[Brain]:
    brain = Brain()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            given = json.loads(body) if body else {}
            brain.seen.append((self.path, given))
            keys = {f"Bearer {key}": "user", f"Bearer {admin_key}": "admin"}
            caller = keys.get(self.headers.get("authorization", ""))
            if caller is None and self.path not in brain.open:
                self._json(401, {"error": {"message": "Invalid API Key"}})
            elif self.path.startswith("/tiers/") and self.path not in brain.open:
                self._json(404 if caller == "admin" else 403, {"error": {"message": "not for you"}})
            elif self.path in brain.answers:
                self._json(*brain.answers[self.path])
            elif self.path == "/v1/models":
                self._json(200, {"data": [{"id": tier} for tier in TIERS]})
            elif self.path == "/v1/chat/completions" and not given.get("stream"):
                said = {"role": "assistant", "content": "one"}
                model = f"model-of-{given['model']}"
                self._json(200, {"model": model, "choices": [{"index": 0, "message": said}]})
            elif self.path == "/v1/chat/completions":
                self._chat()
            elif self.path == "/v1/embeddings":
                self._json(200, {"data": [{"embedding": vector(t)} for t in given["input"]]})
            elif self.path == "/v1/rerank":
                texts = enumerate(given["documents"])
                marks = [{"index": i, "relevance_score": float(i)} for i, _ in texts]
                self._json(200, {"results": marks})
            else:
                self._json(404, {"error": {"message": f"no {self.path}"}})

        def _chat(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            for word in brain.words:
                self._event({"choices": [{"delta": {"content": word}}]})
                if brain.broken:
                    self._event({"error": {"message": "out of memory"}})
                    return
            self._event({"choices": [], "usage": {"completion_tokens": len(brain.words)}})
            self.wfile.write(b"data: [DONE]\n\n")

        def _event(self, event: Any) -> None:
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())

        def _json(self, status: int, body: Any) -> None:
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    def vector(text: str) -> list[float]:
        return brain.vectors.get(text, [float(len(text)), 1.0, 0.5])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    brain.port = server.server_address[1]
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield brain
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
