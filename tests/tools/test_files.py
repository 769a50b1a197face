import os
import sys
from pathlib import Path

import pytest

from contracts.errors import NotFound, Unprocessable
from tools.files import read_regular, regular_files


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_only_regular_files_with_readable_names_are_listed(tmp_path: Path) -> None:
    (tmp_path / "b.csv").touch()
    (tmp_path / "a.JSON").touch()
    (tmp_path / "c.txt").touch()
    (tmp_path / ".hidden.csv").touch()
    (tmp_path / "\udcff.csv").touch()
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "b.csv")
    os.mkfifo(tmp_path / "fifo.csv")
    names = [path.name for path in regular_files(tmp_path, frozenset({".csv", ".json"}))]
    assert names == ["a.JSON", "b.csv"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        regular_files(tmp_path / "nowhere")


def test_a_file_is_read_up_to_a_limit_that_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("12345")
    assert read_regular(tmp_path / "a.csv", 5) == "12345"
    with pytest.raises(Unprocessable, match=r"a\.csv: is larger than 4 bytes"):
        read_regular(tmp_path / "a.csv", 4)


def test_text_that_is_not_utf_8_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"ab\xff")
    with pytest.raises(Unprocessable, match="not UTF-8 at byte 2"):
        read_regular(tmp_path / "a.csv", 10)
