"""The health checks that are more than one plain request, run against a server that is well, one
that is not, and none."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.compose import stacks
from tests.compose.rendering import render

PROGRAMS = {
    "bash": shutil.which("bash") or "",
    "/usr/local/searxng/.venv/bin/python": sys.executable,
}
PORTS = {"qdrant": ("6333", "/readyz"), "searxng": ("8080", "/healthz")}


@contextmanager
def server(status: int, path: str) -> Iterator[str]:
    """A server that gives `status` for `path` and 404 for all else; its port."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == path else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield str(running.server_port)
        finally:
            running.shutdown()
            thread.join()


def ends(name: str, port: str, folder: Path) -> int:
    """How the check of `name` ends when its server is on another port."""
    config = render(stacks.HANDS, stacks.hands(), folder)
    kind, program, *words = config["services"][name]["healthcheck"]["test"]
    assert kind == "CMD"
    usual = f"127.0.0.1{'/' if name == 'qdrant' else ':'}{PORTS[name][0]}"
    assert any(usual in word for word in words)
    here = [word.replace(usual, usual.replace(PORTS[name][0], port)) for word in words]
    return subprocess.run([PROGRAMS[program], *here], capture_output=True, timeout=60).returncode


@pytest.mark.parametrize("name", PORTS)
def test_a_check_tells_a_server_that_is_well_from_one_that_is_not(
    name: str, tmp_path: Path
) -> None:
    with server(200, PORTS[name][1]) as port:
        assert ends(name, port, tmp_path) == 0
    with server(503, PORTS[name][1]) as port:
        assert ends(name, port, tmp_path) != 0
    assert ends(name, port, tmp_path) != 0
