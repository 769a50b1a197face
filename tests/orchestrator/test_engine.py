"""Which engine answers, and what it calls the tiers."""

from pathlib import Path
from typing import Any

import pytest

from contracts.errors import SettingsError
from contracts.settings import Settings
from orchestrator.engine import engine_of


def engine(state: Path, **settings: Any) -> Any:
    return engine_of(Settings(_env_file=None, state_dir=state, **settings))


def test_with_one_model_every_tier_is_that_model(tmp_path: Path) -> None:
    found = engine(tmp_path, openai_compat_url="http://127.0.0.1:9/v1/", model_id="small")
    assert found.url == "http://127.0.0.1:9/v1"
    assert [found.name(tier) for tier in (None, "fast", "deep")] == ["small"] * 3


def test_without_one_the_server_is_asked_for_the_tier(tmp_path: Path) -> None:
    found = engine(tmp_path, openai_compat_url="http://127.0.0.1:9/v1")
    assert [found.name(tier) for tier in ("fast", "balanced")] == ["fast", "balanced"]


def test_no_engine_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="OPENAI_COMPAT_URL") as error:
        engine(tmp_path)
    assert "make run" in error.value.remedy
