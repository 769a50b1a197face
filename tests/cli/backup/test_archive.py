"""The archive is whole, or it is refused before anything is touched."""

import errno
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.backup.archive import Reader, Writer
from cli.backup.manifest import FORMAT, Manifest
from contracts.errors import BadRequest, Conflict, NotFound, StoreError

CONTENT = os.urandom(3_000)


def manifest(writer: Writer, **more: Any) -> Manifest:
    given: dict[str, Any] = {
        "format": FORMAT,
        "variet": "0.1.0",
        "created": "2026-11-21T09:30:00+00:00",
        "role": "hands",
        "parts": writer.parts,
    }
    return Manifest(**(given | more))


def written(path: Path, **more: Any) -> Path:
    with Writer(path) as writer:
        with writer.part("env", "settings", ".env") as sink:
            sink.write(b"PORT=1\n")
        with writer.part("postgres/variet.dump", "database", "variet", {"owner": "variet"}) as sink:
            for start in range(0, len(CONTENT), 1_000):
                sink.write(CONTENT[start : start + 1_000])
        writer.finish(manifest(writer, **more))
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return written(tmp_path / "backup.tar")


def test_parts_come_back_as_they_went_in(archive: Path) -> None:
    with Reader(archive) as reader:
        first, second = reader.manifest.parts
        with reader.open(second) as content:
            assert content.read() == CONTENT
        with reader.open(first) as content:
            assert content.read() == b"PORT=1\n"
        assert second.more == {"owner": "variet"}


def test_any_tar_reads_it_and_only_its_owner_may(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        assert tar.getnames() == ["env", "postgres/variet.dump", "manifest.json"]
    assert archive.stat().st_mode & 0o777 == 0o600


def test_a_part_whose_making_failed_was_never_there(tmp_path: Path) -> None:
    def fail(writer: Writer) -> None:
        with writer.part("env", "settings", ".env") as sink:
            sink.write(b"half")
            raise KeyError

    path = tmp_path / "backup.tar"
    with Writer(path) as writer:
        with pytest.raises(KeyError):
            fail(writer)
        with writer.part("state.tar.gz", "state", "/state") as sink:
            sink.write(b"whole")
        writer.finish(manifest(writer))
    with Reader(path) as reader:
        assert [part.name for part in reader.manifest.parts] == ["state.tar.gz"]


def test_an_unfinished_archive_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyError), Writer(tmp_path / "backup.tar"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_backup_replaces_no_other(archive: Path) -> None:
    before = archive.read_bytes()
    with pytest.raises(Conflict, match="exists"), Writer(archive):
        pass
    assert archive.read_bytes() == before


class Full(io.BytesIO):
    def write(self, data: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_said_and_leaves_no_file(tmp_path: Path) -> None:
    def fill() -> None:
        with (
            Writer(tmp_path / "backup.tar") as writer,
            writer.part("env", "settings", ".env") as sink,
        ):
            sink._file = Full()
            sink.write(b"x")

    with pytest.raises(StoreError, match="No space left") as caught:
        fill()
    assert caught.value.code == "backup_full"
    assert list(tmp_path.iterdir()) == []


def cut(text: bytes) -> bytes:
    return text[: len(text) // 2]


def cut_at_the_manifest(text: bytes) -> bytes:
    return text[: text.index(b"manifest.json")]


def flip(text: bytes) -> bytes:
    at = text.index(CONTENT) + 1_500
    return text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :]


def other_hash(text: bytes) -> bytes:
    at = text.index(b'"sha256": "') + 11
    return text[:at] + (b"0" if text[at : at + 1] != b"0" else b"1") + text[at + 1 :]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (cut, "cut short"),
        (cut_at_the_manifest, "no manifest"),
        (flip, "not what its manifest says"),
        (other_hash, "not what its manifest says"),
        (lambda text: b"", "cut short"),
        (lambda text: b"PK\3\4" + text, "cut short or no archive"),
    ],
)
def test_a_damaged_archive_is_refused(
    archive: Path, spoil: Callable[[bytes], bytes], told: str
) -> None:
    archive.write_bytes(spoil(archive.read_bytes()))
    with pytest.raises(BadRequest, match=told) as caught:
        Reader(archive)
    assert "Nothing was changed" in caught.value.message


def with_member(name: str, kind: bytes = tarfile.REGTYPE, before: bool = True) -> bytes:
    """An archive of another's making."""
    out = io.BytesIO()
    info = tarfile.TarInfo(name)
    info.type = kind
    text = b'{"format": 1, "variet": "0", "created": "", "role": "hands", "parts": []}'
    last = tarfile.TarInfo("manifest.json")
    last.size = len(text)
    with tarfile.open(fileobj=out, mode="w") as tar:
        if before:
            tar.addfile(info)
        tar.addfile(last, io.BytesIO(text))
        if not before:
            tar.addfile(info)
    return out.getvalue()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (with_member("../../etc/passwd"), "no part of a backup"),
        (with_member("/etc/passwd"), "no part of a backup"),
        (with_member("volumes/../x.tar.gz"), "no part of a backup"),
        (with_member("env", tarfile.SYMTYPE), "no plain file"),
        (with_member("env"), "not in its manifest"),
        (with_member("env", before=False), "after the manifest"),
    ],
)
def test_an_archive_of_anothers_making_is_refused(text: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "backup.tar"
    path.write_bytes(text)
    with pytest.raises(BadRequest, match=told):
        Reader(path)


def test_an_archive_of_a_newer_program_is_refused_by_its_number(tmp_path: Path) -> None:
    path = written(tmp_path / "backup.tar", format=FORMAT + 1)
    with pytest.raises(Conflict) as caught:
        Reader(path)
    assert caught.value.code == "backup_newer"
    text = path.read_bytes().replace(b'"created"', b'"creaded"')
    path.write_bytes(text)
    with pytest.raises(Conflict, match=f"format {FORMAT + 1}"):
        Reader(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"nowhere\.tar"):
        Reader(tmp_path / "nowhere.tar")


def test_parts_of_any_length_have_a_right_header(tmp_path: Path) -> None:
    for count in (0, 1, 511, 512, 513):
        path = tmp_path / f"{count}.tar"
        with Writer(path) as writer:
            with writer.part("env", "settings", ".env") as sink:
                sink.write(b"x" * count)
            writer.finish(manifest(writer))
        with Reader(path) as reader, reader.open(reader.manifest.parts[0]) as content:
            assert content.read() == b"x" * count
