from pathlib import Path

import pytest

from contracts.errors import BadRequest, Forbidden, NotFound
from orchestrator.knowledge.roots import Roots


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    folder = tmp_path / "samples"
    (folder / "docs").mkdir(parents=True)
    (folder / "docs/a.md").write_text("a")
    (tmp_path / "secret.md").write_text("s")
    return folder


@pytest.mark.parametrize("path", ["docs/a.md", "samples/docs/a.md", "docs/../docs/a.md"])
def test_a_file_is_found_below_its_root_and_by_its_source_name(samples: Path, path: str) -> None:
    roots = Roots([samples])
    assert roots.locate(path) == samples / "docs/a.md"
    assert roots.locate(str(samples / "docs/a.md")) == samples / "docs/a.md"
    assert roots.source(samples / "docs/a.md") == "samples/docs/a.md"


@pytest.mark.parametrize("path", ["/etc/hosts", "../secret.md", "/nowhere/at/all", "link.md"])
def test_what_lies_outside_is_refused_whether_it_is_there_or_not(samples: Path, path: str) -> None:
    (samples / "link.md").symlink_to(samples.parent / "secret.md")
    with pytest.raises(Forbidden, match="outside of the folders"):
        Roots([samples]).locate(path)


def test_a_missing_file_and_a_null_byte_are_errors_of_their_own(samples: Path) -> None:
    with pytest.raises(NotFound):
        Roots([samples]).locate("docs/b.md")
    with pytest.raises(BadRequest):
        Roots([samples]).locate("a\0b")


def test_roots_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folders = [tmp_path / "one/src", tmp_path / "two/src"]
    for folder in folders:
        folder.mkdir(parents=True)
    roots = Roots(folders)
    assert [roots.source(folder / "x.py") for folder in folders] == [
        "one/src/x.py",
        "two/src/x.py",
    ]
