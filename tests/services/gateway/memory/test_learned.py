import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from services.gateway.memory.learned import MOST, Learned
from tests.services.gateway.memory.engines import spec


def test_peaks_are_kept_by_fingerprint_and_context(tmp_path: Path) -> None:
    path = tmp_path / "state/learned.json"
    one, other = spec(), replace(spec(), flags=("--parallel", "2"))
    learned = Learned(path)
    assert learned.peak(one, 8_192) == {}
    assert learned.note(one, 8_192, {"card0": 900, "ram": 5}) == {"card0": 900, "ram": 5}
    assert learned.note(one, 8_192, {"card0": 700, "card1": 1}) == {
        "card0": 900,
        "card1": 1,
        "ram": 5,
    }
    again = Learned(path)
    assert again.peak(one, 8_192) == {"card0": 900, "card1": 1, "ram": 5}
    assert again.peak(one, 4_096) == {}
    assert again.peak(other, 8_192) == {}
    assert [file.name for file in path.parent.iterdir()] == ["learned.json"]


def test_what_sleeps_is_kept_apart(tmp_path: Path) -> None:
    learned = Learned(tmp_path / "learned.json")
    learned.note_asleep(spec(), {"card0": 1_400})
    assert Learned(tmp_path / "learned.json").asleep(spec()) == {"card0": 1_400}
    assert learned.peak(spec(), 8_192) == {}


def test_nothing_seen_is_nothing_learned(tmp_path: Path) -> None:
    assert Learned(tmp_path / "learned.json").note(spec(), 1, {}) == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b'{"version": 1, "peaks": {"a": {"card0": ',
        b"[]",
        b'{"version": 9, "peaks": {}}',
        b'{"version": 1, "peaks": {"a": 5}}',
        b'{"version": 1, "peaks": {"a": {"card0": -5}}}',
        b'{"version": 1, "peaks": {"a": {"card0": true}}}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_is_put_aside_and_begun_anew(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "learned.json"
    path.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        learned = Learned(path)
    assert learned.peak(spec(), 8_192) == {}
    assert "begun anew" in caplog.text
    assert path.with_name("learned.json.broken").read_bytes() == damage
    learned.note(spec(), 8_192, {"ram": 7})
    assert Learned(path).peak(spec(), 8_192) == {"ram": 7}


def test_a_folder_that_cannot_be_written_costs_only_the_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    learned = Learned(tmp_path / "file/learned.json")
    assert learned.note(spec(), 8_192, {"ram": 7}) == {"ram": 7}
    assert "was not kept" in caplog.text
    assert learned.peak(spec(), 8_192) == {"ram": 7}


def test_the_oldest_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "learned.json"
    learned = Learned(path)
    for context in range(1, MOST + 3):
        learned.note(spec(), context, {"ram": context})
        learned.note(spec(), 1, {"ram": 1})
    kept = json.loads(path.read_text())["peaks"]
    assert len(kept) == MOST
    assert learned.peak(spec(), 1) == {"ram": 1}
    assert learned.peak(spec(), 2) == {}
    assert learned.peak(spec(), MOST + 2) == {"ram": MOST + 2}
