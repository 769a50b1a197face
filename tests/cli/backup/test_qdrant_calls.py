"""Qdrant's snapshot routes, against a stand-in that takes what its API reference lists, and nothing
else: https://api.qdrant.tech/api-reference/snapshots. No real server is asked."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from cli.backup import qdrant_calls

KEY = "qdrant-key"
SNAPSHOT = b"snapshot " * 500_000


class Qdrant:
    """`collections` maps a name to the bytes that it was made of, `aliases` to a collection."""

    def __init__(self) -> None:
        self.collections = {"variet-docs.0a1b2c3d": SNAPSHOT, "others": b""}
        self.aliases = {"variet-docs": "variet-docs.0a1b2c3d", "theirs": "others"}
        self.snapshots: dict[str, bytes] = {}
        self.refuse = ""
        self.cut = False

    def answer(self, method: str, path: str, body: bytes, kind: str) -> tuple[int, Any]:
        parts = urlsplit(path).path.strip("/").split("/")
        query = dict(parse_qsl(urlsplit(path).query))
        if parts[-1] == "upload":
            assert query.pop("priority") == "snapshot"
        if "snapshots" in parts and method != "GET":
            assert query.pop("wait", "true") == "true"
        assert not query
        if self.refuse and self.refuse in path:
            return 507, {"status": {"error": "No space left on device"}}
        match method, parts:
            case "GET", ["aliases"]:
                rows = [{"alias_name": a, "collection_name": c} for a, c in self.aliases.items()]
                return 200, {"result": {"aliases": rows}}
            case "POST", ["collections", "aliases"]:
                return self._actions(json.loads(body)["actions"])
            case "POST", ["collections", name, "snapshots"]:
                self.snapshots["s1.snapshot"] = self.collections[name]
                size = len(self.collections[name])
                return 200, {"result": {"name": "s1.snapshot", "size": size}}
            case "GET", ["collections", _, "snapshots", snapshot]:
                return 200, self.snapshots[snapshot]
            case "DELETE", ["collections", _, "snapshots", snapshot]:
                del self.snapshots[snapshot]
                return 200, {"result": True}
            case "POST", ["collections", name, "snapshots", "upload"]:
                self.collections[name] = _file(body, kind)
                return 200, {"result": True}
            case "DELETE", ["collections", name]:
                there = self.collections.pop(name, None) is not None
                return (200, {"result": True}) if there else (404, {"status": {"error": "none"}})
        return 404, {"status": {"error": f"no route {method} {path}"}}

    def _actions(self, actions: list[dict[str, Any]]) -> tuple[int, Any]:
        for action in actions:
            if gone := action.get("delete_alias"):
                del self.aliases[gone["alias_name"]]
            if made := action.get("create_alias"):
                assert made["collection_name"] in self.collections
                self.aliases[made["alias_name"]] = made["collection_name"]
        return 200, {"result": True}


def _file(body: bytes, kind: str) -> bytes:
    """The one file of a multipart form."""
    boundary = kind.partition("boundary=")[2].encode()
    head, _, rest = body.partition(b"\r\n\r\n")
    assert b'name="snapshot"' in head
    content, ending = rest.rsplit(b"\r\n--" + boundary, 1)
    assert ending == b"--\r\n"
    return content


@contextmanager
def served() -> Iterator[tuple[Qdrant, str]]:
    qdrant = Qdrant()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            kind = self.headers.get("content-type", "")
            if self.headers.get("api-key") == KEY:
                status, given = qdrant.answer(self.command, self.path, body, kind)
            else:
                status, given = 401, "Must provide an API key"
            text = given if isinstance(given, bytes) else json.dumps(given).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text[:-1] if qdrant.cut and isinstance(given, bytes) else text)

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield qdrant, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def qdrant(monkeypatch: pytest.MonkeyPatch) -> Iterator[Qdrant]:
    with served() as (qdrant, url):
        monkeypatch.setenv("QDRANT_URL", url)
        monkeypatch.setenv("QDRANT_API_KEY", KEY)
        yield qdrant


def test_only_our_own_collections_are_named(qdrant: Qdrant) -> None:
    assert qdrant_calls.aliases() == {"variet-docs": "variet-docs.0a1b2c3d"}


def test_a_snapshot_is_streamed_and_qdrants_copy_removed(qdrant: Qdrant) -> None:
    out = io.BytesIO()
    qdrant_calls.save("variet-docs.0a1b2c3d", out)
    assert out.getvalue() == SNAPSHOT
    assert qdrant.snapshots == {}


def test_a_snapshot_that_is_cut_short_is_not_taken_for_whole(qdrant: Qdrant) -> None:
    qdrant.cut = True
    with pytest.raises(qdrant_calls.Refused, match="came 4499999 bytes, not 4500000"):
        qdrant_calls.save("variet-docs.0a1b2c3d", io.BytesIO())
    assert qdrant.snapshots == {}


def test_a_new_collection_takes_over_the_alias_and_the_former_one_stays(qdrant: Qdrant) -> None:
    told = qdrant_calls.load("variet-docs", len(SNAPSHOT), io.BytesIO(SNAPSHOT))
    assert told["old"] == "variet-docs.0a1b2c3d"
    assert told["new"] == qdrant.aliases["variet-docs"] != told["old"]
    assert qdrant.collections[str(told["new"])] == SNAPSHOT
    assert "variet-docs.0a1b2c3d" in qdrant.collections
    qdrant_calls.point("variet-docs", told["old"])
    qdrant_calls.drop(str(told["new"]))
    assert qdrant.aliases["variet-docs"] == "variet-docs.0a1b2c3d"
    assert set(qdrant.collections) == {"variet-docs.0a1b2c3d", "others"}


def test_onto_an_empty_store_there_is_no_former_one(qdrant: Qdrant) -> None:
    qdrant.collections, qdrant.aliases = {}, {}
    told = qdrant_calls.load("variet-docs", 3, io.BytesIO(b"abc"))
    assert told["old"] is None
    assert qdrant.collections == {told["new"]: b"abc"}
    qdrant_calls.point("variet-docs", None)
    assert qdrant.aliases == {}


@pytest.mark.parametrize("refuse", ["upload", "collections/aliases"])
def test_a_failure_leaves_what_was_there(qdrant: Qdrant, refuse: str) -> None:
    qdrant.refuse = refuse
    with pytest.raises(qdrant_calls.Refused, match="No space left"):
        qdrant_calls.load("variet-docs", len(SNAPSHOT), io.BytesIO(SNAPSHOT))
    assert qdrant.aliases["variet-docs"] == "variet-docs.0a1b2c3d"
    assert set(qdrant.collections) == {"variet-docs.0a1b2c3d", "others"}


def test_it_runs_by_itself_as_it_does_in_a_container() -> None:
    source = Path(qdrant_calls.__file__).read_text("utf-8")

    def call(url: str, *words: str, given: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            [sys.executable, "-I", "-S", "-c", source, *words],
            input=given,
            capture_output=True,
            env={"QDRANT_URL": url, "QDRANT_API_KEY": KEY},
        )

    with served() as (qdrant, url):
        assert call(url, "save", "variet-docs.0a1b2c3d").stdout == SNAPSHOT
        told = json.loads(call(url, "load", "variet-docs", "3", given=b"abc").stdout)
        assert qdrant.collections[told["new"]] == b"abc"
        wrong = call(url, "save", "unheard")
    gone = call("http://127.0.0.1:9", "list")
    assert (wrong.returncode, gone.returncode) == (1, 1)
    assert gone.stderr.startswith(b"Qdrant: ")
