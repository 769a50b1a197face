"""An HTTP server of one file that behaves as a model hub does, or misbehaves on demand."""

import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


@dataclass
class Behaviour:
    """`cut_at`: bodies end after this many bytes, once per entry. `redirect`: GET answers with
    this address. `linked`: HEAD tells X-Linked-Etag and X-Linked-Size. `hold`: wait for
    `release` before the first byte. `endless`: the content again and again, without a length."""

    content: bytes
    ranges: bool = True
    status: int = 200
    cut_at: list[int] = field(default_factory=list)
    redirect: str | None = None
    linked: tuple[str, int] | None = None
    hold: bool = False
    endless: bool = False


class FileServer:
    """`async`-free: it runs in threads of its own. `seen` lists (method, range, authorization)."""

    def __init__(self, content: bytes) -> None:
        self.behaviour = Behaviour(content)
        self.seen: list[tuple[str, str | None, str | None]] = []
        self.arrived = threading.Event()
        self.release = threading.Event()
        owner = self

        class Handler(_Handler):
            server_owner = owner

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def ranges_asked(self) -> list[str | None]:
        return [asked for method, asked, _ in self.seen if method == "GET"]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that refuses a file closes before its end; that is no failure here."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_owner: FileServer

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._note()
        behaviour = self.server_owner.behaviour
        self.send_response(behaviour.status)
        if behaviour.linked:
            self.send_header("X-Linked-Etag", f'"{behaviour.linked[0]}"')
            self.send_header("X-Linked-Size", str(behaviour.linked[1]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self._note()
        behaviour = self.server_owner.behaviour
        if behaviour.hold:
            self.server_owner.arrived.set()
            self.server_owner.release.wait(10)
        if behaviour.redirect:
            self.send_response(302)
            self.send_header("Location", behaviour.redirect + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif behaviour.status != 200:
            self.send_response(behaviour.status)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif behaviour.endless:
            self._send_for_ever(behaviour.content)
        else:
            self._send(behaviour)

    def _send(self, behaviour: Behaviour) -> None:
        asked = self.headers.get("Range") if behaviour.ranges else None
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        total = len(behaviour.content)
        if start >= total > 0:
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = behaviour.content[start:]
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if behaviour.cut_at:
            body = body[: behaviour.cut_at.pop(0)]
            self.close_connection = True
        self.wfile.write(body)

    def _send_for_ever(self, content: bytes) -> None:
        self.close_connection = True
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(content)

    def _note(self) -> None:
        headers = self.headers
        self.server_owner.seen.append(
            (self.command, headers.get("Range"), headers.get("Authorization"))
        )
