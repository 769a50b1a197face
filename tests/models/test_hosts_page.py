from pathlib import Path

import pytest

from models import hosts_page
from models.manifest import load_preset, preset_names


def test_the_page_is_what_the_presets_and_the_manifest_say() -> None:
    assert hosts_page.PAGE.read_text("utf-8") == hosts_page.page(), "out of date: run `make docs`"
    assert hosts_page.main(["--check"]) == 0


def test_a_stale_page_is_found_and_written_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "hosts.md"
    path.write_text("old")
    monkeypatch.setattr(hosts_page, "PAGE", path)
    assert hosts_page.main(["--check"]) == 1
    assert "make docs" in capsys.readouterr().err
    assert hosts_page.main([]) == 0
    assert hosts_page.main(["--check"]) == 0


def test_each_preset_shows_its_cards_and_what_to_lower_first() -> None:
    for section in hosts_page.page().split("\n## ")[1:-1]:
        name = section.splitlines()[0]
        assert name in preset_names()
        preset = load_preset(name)
        for card in preset.cards:
            assert section.count(card.name) >= 3
        assert preset.lower_first[0] in section


def test_the_32b_model_on_24_gb_is_worked_out() -> None:
    wanted = "| deep | 0: RTX 4090 | 24,564 | 18,600 | 2,048 | 1,500 | 0 | 450 of 22,598 |"
    assert wanted in hosts_page.page()
