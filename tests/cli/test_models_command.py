import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from cli.models import recommended
from contracts.manifest import Manifest
from models.manifest import load_manifest
from tests.cli.conftest import Variet

WEIGHTS = b"weights" * 1_000


@pytest.fixture
def hub() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(WEIGHTS)))
            self.end_headers()
            self.wfile.write(WEIGHTS)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def catalogue(hub: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Manifest:
    entry = {
        "id": "small",
        "about": "A small one.",
        "kind": "chat",
        "engine": "llama.cpp",
        "source": {
            "url": f"{hub}/small.gguf",
            "sha256": hashlib.sha256(WEIGHTS).hexdigest(),
            "bytes": len(WEIGHTS),
        },
        "licence": "MIT",
        "context": 2048,
        "vram_mib": 0,
        "ram_mib": 1000,
    }
    manifest = Manifest.model_validate({"models": [entry]})
    monkeypatch.setattr("cli.models.load_manifest", lambda: manifest)
    monkeypatch.setenv("MODEL_STORE", str(tmp_path))
    return manifest


def test_a_pull_says_what_it_fetches_and_leaves_it_verified(
    catalogue: Manifest, variet: Variet, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert variet("models", "pull", "small") == 0
    out = capsys.readouterr().out
    assert "size 7 kB · licence MIT · needs 1.0 GB of memory" in out
    assert "verified (SHA-256 by the manifest)" in out
    assert (tmp_path / "small" / "small.gguf").read_bytes() == WEIGHTS


def test_without_a_name_the_choices_and_a_recommendation_are_shown(
    catalogue: Manifest, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert variet("models", "pull") == 0
    out = capsys.readouterr().out
    assert "small  not here · 7 kB · 1.0 GB of memory · MIT · chat, llama.cpp" in out
    assert "variet models pull small" in out


def test_the_list_says_what_is_here(
    catalogue: Manifest, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert variet("models", "pull", "small") == 0
    capsys.readouterr()
    assert variet("models", "list", "--json") == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["id"], entry["here"]) == ("small", True)


def test_an_unknown_name_lists_the_choices(
    catalogue: Manifest, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert variet("models", "pull", "huge") == 1
    err = capsys.readouterr().err
    assert "no model 'huge'" in err
    assert "Choose one of: small." in err


@pytest.mark.parametrize("memory_gib", [1, 8, 16, 64])
def test_what_is_recommended_runs_on_the_cpu_and_fits(memory_gib: int) -> None:
    manifest = load_manifest()
    entry = recommended(manifest, memory_gib * 1024)
    assert entry is not None
    assert (entry.kind, entry.vram_mib) == ("chat", 0)
    smallest = min(
        one.ram_mib
        for one in manifest.models
        if one.kind == "chat" and one.vram_mib == 0 and one.source.is_web
    )
    assert entry.ram_mib <= max(memory_gib * 1024 // 8, smallest)
