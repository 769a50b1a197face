import os
from pathlib import Path

import pytest

from contracts.errors import NotFound, Unprocessable
from orchestrator.knowledge.parsing import SIZE_LIMIT, Document, kind_of, read, walk


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.md", "prose"),
        ("README", "prose"),
        ("Makefile", "code"),
        ("x.PY", "code"),
        ("m.json", "code"),
        ("t.csv", "table"),
        ("ecu.log", "lines"),
        ("photo.png", None),
        ("archive", None),
    ],
)
def test_the_name_tells_the_kind(name: str, kind: str | None) -> None:
    assert kind_of(name) == kind


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xef\xbb\xbfgr\xc3\xbcn\r\n", "grün\n"),
        ("grün".encode("utf-16"), "grün"),
        (b"5 \xb0C \x96 ok", "5 °C – ok"),
    ],
)
def test_text_is_decoded_whatever_wrote_it(tmp_path: Path, data: bytes, text: str) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    assert read(tmp_path / "a.txt") == Document(text, "prose")


def test_what_cannot_be_read_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "binary.txt").write_bytes(b"a\0b")
    with (tmp_path / "large.log").open("wb") as file:
        file.truncate(SIZE_LIMIT + 1)
    (tmp_path / "link.md").symlink_to(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.txt")
    for name, code in {
        "a.png": "unsupported_type",
        "binary.txt": "unreadable_file",
        "large.log": "file_too_large",
        "link.md": "unreadable_file",
        "pipe.txt": "unreadable_file",
    }.items():
        with pytest.raises(Unprocessable) as refused:
            read(tmp_path / name)
        assert refused.value.code == code
        assert name in refused.value.message
    with pytest.raises(NotFound):
        read(tmp_path / "missing.txt")


def test_a_walk_leaves_out_what_no_one_asks_about(tmp_path: Path) -> None:
    for name in (
        "b.md",
        "a/c.py",
        "a/.env",
        ".git/config.txt",
        "node_modules/x.js",
        "package-lock.json",
        "x.min.js",
        "photo.jpg",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (tmp_path / "outside.md").symlink_to("/etc/hosts")
    (tmp_path / "folder").symlink_to("/etc")
    assert list(walk(tmp_path)) == [tmp_path / "b.md", tmp_path / "a/c.py"]
