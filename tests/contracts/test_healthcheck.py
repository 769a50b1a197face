"""What a container asks itself."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from contracts.healthcheck import main
from contracts.settings import REPOSITORY


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health?x=1" else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


def test_200_is_well_and_anything_else_is_told(
    server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"{server}/health?x=1"]) == 0
    assert main([f"{server}/other"]) == 1
    assert "HTTP 503" in capsys.readouterr().err


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/health", "http://nowhere.invalid:1/", "http://a/"]
)
def test_what_does_not_answer_is_told(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([url]) == 1
    assert url in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["127.0.0.1:8000"], ["http://a:1/", "more"]])
def test_a_wrong_command_line_shows_the_right_one(arguments: list[str]) -> None:
    assert main(arguments) == 2


def test_it_imports_only_the_standard_library_and_little_of_that() -> None:
    check = (
        "import sys; before = set(sys.modules); import contracts.healthcheck\n"
        "heavy = {'ssl', 'http', 'urllib', 'email', 'json', 'pydantic', 'asyncio'}\n"
        "assert not heavy & (set(sys.modules) - before)\n"
    )
    subprocess.run([sys.executable, "-c", check], check=True, cwd=REPOSITORY)
