import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from contracts.errors import (
    Conflict,
    Forbidden,
    NotFound,
    StoreError,
    Unavailable,
    Unprocessable,
    VarietError,
)
from contracts.manifest import ManifestEntry, ModelSource
from models.manifest import load_manifest
from models.store import Progress, Store, seal
from tests.support.file_server import FileServer

CONTENT = bytes(range(256)) * 12_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
HUB_URL = "https://huggingface.co/owner/name/resolve/0123456/model.gguf"


def entry_of(
    url: str = HUB_URL, sha256: str | None = DIGEST, size: int | None = len(CONTENT)
) -> ManifestEntry:
    return ManifestEntry(
        id="small",
        about="A test.",
        kind="chat",
        engine="llama.cpp",
        source=ModelSource(url=url, sha256=sha256, bytes=size),
        licence="MIT",
        context=512,
        vram_mib=0,
        ram_mib=1,
    )


@pytest.fixture
def hub() -> Iterator[FileServer]:
    with FileServer(CONTENT) as server:
        yield server


def store_at(root: Path, hub: FileServer, token: str | None = None) -> Store:
    return Store(root, endpoint=hub.endpoint, token=token, retry_s=0)


def test_a_model_is_fetched_verified_and_recorded(tmp_path: Path, hub: FileServer) -> None:
    store, seen = store_at(tmp_path, hub), list[Progress]()
    pulled = store.pull(entry_of(), seen.append)
    assert pulled.path == tmp_path / "small" / "model.gguf"
    assert pulled.path.read_bytes() == CONTENT
    assert pulled.trusted == "manifest"
    assert seen[-1] == Progress("fetching", len(CONTENT), len(CONTENT))
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    record = json.loads((tmp_path / "pulled.json").read_text())["small"]
    assert (record["sha256"], record["bytes"]) == (DIGEST, len(CONTENT))
    assert store.has(entry_of())
    store.verify(entry_of())


def test_what_is_here_is_not_fetched_again(tmp_path: Path, hub: FileServer) -> None:
    store = store_at(tmp_path, hub)
    store.pull(entry_of())
    store.pull(entry_of())
    assert len(hub.seen) == 1


def test_an_interrupted_transfer_goes_on_where_it_ended(tmp_path: Path, hub: FileServer) -> None:
    hub.behaviour.cut_at = [1_000_000, 500_000]
    store_at(tmp_path, hub).pull(entry_of())
    assert hub.ranges_asked == [None, "bytes=1000000-", "bytes=1500000-"]


def test_a_pull_goes_on_from_the_part_of_an_earlier_process(
    tmp_path: Path, hub: FileServer
) -> None:
    part = tmp_path / "small" / "model.gguf.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT[:700_000])
    seen: list[Progress] = []
    store_at(tmp_path, hub).pull(entry_of(), seen.append)
    assert hub.ranges_asked == ["bytes=700000-"]
    assert seen[0] == Progress("checking", 700_000, len(CONTENT))
    assert not part.exists()


def test_a_server_without_ranges_starts_over(tmp_path: Path, hub: FileServer) -> None:
    hub.behaviour.ranges = False
    hub.behaviour.cut_at = [1_000_000]
    pulled = store_at(tmp_path, hub).pull(entry_of())
    assert pulled.path.read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_dropped(tmp_path: Path, hub: FileServer) -> None:
    part = tmp_path / "small" / "model.gguf.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT + b"more")
    store_at(tmp_path, hub).pull(entry_of())
    assert hub.ranges_asked == [None]


def test_a_transfer_that_never_advances_is_given_up_and_its_part_kept(
    tmp_path: Path, hub: FileServer
) -> None:
    hub.behaviour.cut_at = [1_000] + [0] * 20
    with pytest.raises(Unavailable, match=r"cannot be fetched") as caught:
        store_at(tmp_path, hub).pull(entry_of())
    assert "resumes" in caught.value.remedy
    assert (tmp_path / "small" / "model.gguf.part").read_bytes() == CONTENT[:1_000]


def test_wrong_content_is_deleted_and_both_hashes_are_named(
    tmp_path: Path, hub: FileServer
) -> None:
    wrong = "0" * 64
    with pytest.raises(Unprocessable, match=f"{DIGEST}, expected {wrong}"):
        store_at(tmp_path, hub).pull(entry_of(sha256=wrong))
    assert not list(tmp_path.glob("small/model*"))


def test_a_file_of_another_size_is_refused_before_it_is_fetched(
    tmp_path: Path, hub: FileServer
) -> None:
    with pytest.raises(Unprocessable, match=f"has {len(CONTENT)} bytes, expected 5"):
        store_at(tmp_path, hub).pull(entry_of(size=5))


@pytest.mark.timeout(20)
def test_a_body_without_end_is_read_to_the_size_of_the_file(
    tmp_path: Path, hub: FileServer
) -> None:
    hub.behaviour.endless = True
    with pytest.raises(Unprocessable, match="expected"):
        store_at(tmp_path, hub).pull(entry_of(sha256="0" * 64))
    assert not list(tmp_path.glob("small/model*"))


def test_redirects_in_a_circle_are_an_interruption(tmp_path: Path, hub: FileServer) -> None:
    hub.behaviour.redirect = hub.endpoint
    with pytest.raises(Unavailable, match="cannot be fetched"):
        store_at(tmp_path, hub).pull(entry_of())


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [(401, Forbidden, "HF_TOKEN"), (403, Forbidden, "HF_TOKEN"), (404, NotFound, "no such file"),
     (503, Unavailable, "503")],
)  # fmt: skip
def test_refusals_say_what_to_do(
    tmp_path: Path, hub: FileServer, status: int, kind: type[VarietError], says: str
) -> None:
    hub.behaviour.status = status
    with pytest.raises(kind, match=says):
        store_at(tmp_path, hub).pull(entry_of())


def test_no_server_at_all_is_an_interruption(tmp_path: Path) -> None:
    store = Store(tmp_path, endpoint="http://127.0.0.1:9", retry_s=0)
    with pytest.raises(Unavailable, match="Check the network or HF_ENDPOINT"):
        store.pull(entry_of())


def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(
    tmp_path: Path, hub: FileServer
) -> None:
    with FileServer(CONTENT) as mirror:
        hub.behaviour.redirect = mirror.endpoint
        store_at(tmp_path, hub, token="secret").pull(entry_of())
        assert hub.seen == [("GET", None, "Bearer secret")]
        assert mirror.seen == [("GET", None, None)]


def test_a_token_is_not_sent_to_other_servers(tmp_path: Path, hub: FileServer) -> None:
    store = Store(tmp_path, endpoint="https://hub.example", token="secret", retry_s=0)
    store.pull(entry_of(url=f"{hub.endpoint}/model.gguf"))
    assert hub.seen == [("GET", None, None)]


def test_without_a_hash_in_the_manifest_the_hubs_own_record_is_used(
    tmp_path: Path, hub: FileServer
) -> None:
    hub.behaviour.linked = (DIGEST, len(CONTENT))
    pulled = store_at(tmp_path, hub).pull(entry_of(sha256=None, size=None))
    assert pulled.trusted == "hub"
    assert pulled.sha256 == DIGEST
    assert json.loads((tmp_path / "pulled.json").read_text())["small"]["trusted"] == "hub"


def test_without_any_hash_nothing_is_fetched(tmp_path: Path, hub: FileServer) -> None:
    with pytest.raises(Unprocessable, match="knows the SHA-256"):
        store_at(tmp_path, hub).pull(entry_of(sha256=None, size=None))
    assert not hub.ranges_asked


def test_a_hub_that_contradicts_the_manifest_is_refused(tmp_path: Path, hub: FileServer) -> None:
    hub.behaviour.linked = ("f" * 64, len(CONTENT))
    with pytest.raises(Unprocessable, match="the manifest says sha256"):
        store_at(tmp_path, hub).pull(entry_of(size=None))


def test_a_full_disk_is_seen_before_the_transfer(
    tmp_path: Path, hub: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10 * 2**20))
    with pytest.raises(StoreError, match="10 MiB are free") as caught:
        store_at(tmp_path, hub).pull(entry_of())
    assert caught.value.code == "disk_full"
    assert not hub.seen


def test_two_pulls_of_one_model_do_not_clash(tmp_path: Path, hub: FileServer) -> None:
    hub.behaviour.hold = True
    first = threading.Thread(target=store_at(tmp_path, hub).pull, args=(entry_of(),))
    first.start()
    assert hub.arrived.wait(5)
    with pytest.raises(Conflict, match="Another process is pulling small"):
        store_at(tmp_path, hub).pull(entry_of())
    hub.release.set()
    first.join(10)
    assert store_at(tmp_path, hub).has(entry_of())


def test_a_repository_is_left_to_its_engine(tmp_path: Path) -> None:
    with pytest.raises(Unprocessable, match="fetched by its engine"):
        Store(tmp_path).pull(entry_of(url="hf:owner/name", sha256=None, size=None))


def test_a_damaged_file_is_found_by_verify(tmp_path: Path, hub: FileServer) -> None:
    store = store_at(tmp_path, hub)
    store.pull(entry_of()).path.write_bytes(b"damaged")
    with pytest.raises(Unprocessable, match="Delete it and pull it again"):
        store.verify(entry_of())
    assert store.pull(entry_of()).path.read_bytes() == CONTENT


MANIFEST = """\
# Kept.
models:
  - id: demo
    about: A test.
    kind: chat
    engine: llama.cpp
    source:
      url: file:models/demo.gguf
      sha256: null
      bytes: null
    licence: MIT
    context: 512
    vram_mib: 0
    ram_mib: 1
"""


def test_seal_writes_hash_and_size_and_leaves_the_rest(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "demo.gguf").write_bytes(CONTENT)
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(MANIFEST)
    assert seal("demo", manifest, tmp_path) == (DIGEST, len(CONTENT))
    sealed: Any = MANIFEST.replace("sha256: null", f"sha256: {DIGEST}")
    assert manifest.read_text() == sealed.replace("bytes: null", f"bytes: {len(CONTENT)}")
    assert seal("demo", manifest, tmp_path) == (DIGEST, len(CONTENT))
    entry = load_manifest(manifest).get("demo")
    assert entry is not None
    store = Store(tmp_path / "store", repository=tmp_path)
    assert store.pull(entry).path == tmp_path / "models" / "demo.gguf"


def test_seal_of_an_unknown_entry_says_so(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(MANIFEST)
    with pytest.raises(NotFound, match="no file: entry 'other'"):
        seal("other", manifest, tmp_path)
