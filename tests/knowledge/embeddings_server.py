"""A small server of OpenAI's /v1/embeddings, whose vectors follow from the texts."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class EmbeddingsServer:
    """Serves on a free loopback port while entered. `requests` holds the bodies and keys seen,
    `failing` is the status of the next answers."""

    def __init__(self, dimension: int) -> None:
        self.failing: int | None = None
        self.silent = False
        self._released = threading.Event()
        self.answer: Any = None
        self.requests: list[tuple[dict[str, Any], str | None]] = []
        self.priorities: list[str] = []
        self._dimension = dimension
        self._port = 0
        self.start()

    def start(self) -> None:
        """Listen, on the former port if there was one."""
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                served.requests.append((body, self.headers.get("Authorization")))
                served.priorities.append(self.headers.get("X-Variet-Priority", ""))
                if served.silent:
                    served._released.wait()
                    return
                rows = [
                    {"index": n, "embedding": [b + 1 for b in _digest(text)[: served._dimension]]}
                    for n, text in enumerate(body["input"])
                ]
                answer = {"data": rows[::-1]} if served.answer is None else served.answer
                data = json.dumps(answer).encode()
                self.send_response(served.failing or 200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._http.server_port
        self.url = f"http://127.0.0.1:{self._port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self._released.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def __enter__(self) -> "EmbeddingsServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
