"""Secrets come from `.env` alone, and reach only those who need them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cli.host import secret
from cli.host.answers import PROFILES
from contracts.settings import REPOSITORY
from tests.compose import stacks
from tests.compose.rendering import Config, Refused, render

LANGFUSE = {"langfuse-web", "langfuse-worker"}
HANDS = {
    "VARIET_API_KEY": {"orchestrator"},
    "OPENAI_COMPAT_KEY": {"orchestrator"},
    "QDRANT_API_KEY": {"orchestrator", "qdrant"},
    "POSTGRES_PASSWORD": {"orchestrator", "postgres"},
    "CALIBRATION_TOKEN": {"orchestrator", "calibration"},
    "LOGS_TOKEN": {"orchestrator", "logs"},
    "WORKSPACE_TOKEN": {"orchestrator", "workspace"},
    "REDIS_PASSWORD": {"redis", *LANGFUSE},
    "SEARXNG_SECRET": {"searxng"},
    "LANGFUSE_PUBLIC_KEY": {"orchestrator", "langfuse-web"},
    "LANGFUSE_SECRET_KEY": {"orchestrator", "langfuse-web"},
    "LANGFUSE_ADMIN_PASSWORD": {"langfuse-web"},
    "LANGFUSE_POSTGRES_PASSWORD": {"postgres", *LANGFUSE},
    "LANGFUSE_CLICKHOUSE_PASSWORD": {"clickhouse", *LANGFUSE},
    "LANGFUSE_S3_SECRET": {"seaweedfs", *LANGFUSE},
    "LANGFUSE_SALT": LANGFUSE,
    "LANGFUSE_ENCRYPTION_KEY": LANGFUSE,
    "LANGFUSE_NEXTAUTH_SECRET": {"langfuse-web"},
}
BRAIN = {"GATEWAY_API_KEY": {"gateway"}, "GATEWAY_ADMIN_KEY": {"gateway"}}


def places(tree: object, value: str, way: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where in a rendered stack a text holds `value`."""
    if isinstance(tree, dict):
        for key, branch in tree.items():
            yield from places(branch, value, (*way, key))
    elif isinstance(tree, list):
        for branch in tree:
            yield from places(branch, value, way)
    elif value in str(tree):
        yield way


def holders(config: Config, value: str) -> set[str]:
    """The services that hold a secret; it must stand nowhere but in their environment, or in the
    command line of the one server that takes it only there."""
    found = list(places(config, value))
    for way in found:
        assert way[0] == "services"
        assert way[2] == "environment" or way[1:] == ("redis", "command"), way
    return {way[1] for way in found}


def test_each_secret_of_the_hands_reaches_only_who_needs_it(tmp_path: Path) -> None:
    settings = stacks.hands()
    config = render(stacks.HANDS, settings, tmp_path)
    assert {name: holders(config, settings[name]) for name in HANDS} == HANDS


@pytest.mark.parametrize("preset", ["2x3060", "4090+2070"])
def test_each_secret_of_the_brain_reaches_only_who_needs_it(preset: str, tmp_path: Path) -> None:
    settings = stacks.brain(preset)
    config = render(stacks.BRAIN, settings, tmp_path)
    assert {name: holders(config, settings[name]) for name in BRAIN} == BRAIN


def test_a_profile_that_is_off_gets_no_secret(tmp_path: Path) -> None:
    settings = stacks.hands(())
    rendered = json.dumps(render(stacks.HANDS, settings, tmp_path))
    inside = {name for name in HANDS if settings[name] in rendered}
    assert inside == {name for name, who in HANDS.items() if who & {"orchestrator", "postgres"}}


@pytest.mark.parametrize("name", [*HANDS, "OPENAI_COMPAT_URL"])
def test_the_hands_do_not_start_without_a_secret_and_name_it(name: str, tmp_path: Path) -> None:
    settings = {key: value for key, value in stacks.hands(()).items() if key != name}
    with pytest.raises(Refused, match=rf"\b{name}\b.*run variet init"):
        render(stacks.HANDS, settings, tmp_path)


@pytest.mark.parametrize("name", [*BRAIN, "LAN_IP", "VARIET_PRESET"])
def test_the_brain_does_not_start_without_what_init_writes(name: str, tmp_path: Path) -> None:
    settings = {key: value for key, value in stacks.brain("cpu").items() if key != name}
    with pytest.raises(Refused, match=rf"\b{name}\b.*run variet init"):
        render(stacks.BRAIN, settings, tmp_path)


def test_no_secret_has_a_value_in_a_committed_file() -> None:
    names = secret.SECRET | {"HF_TOKEN", "DATABASE_URL"}
    for file in (stacks.BRAIN, stacks.HANDS):
        text = file.read_text("utf-8")
        for name in names:
            assert f"${{{name}:-" not in text, f"{file.name} gives {name} a default"
            assert f"${{{name}-" not in text, f"{file.name} gives {name} a default"
    example = (REPOSITORY / ".env.example").read_text("utf-8").splitlines()
    assert not [
        line for line in example if line.strip("# ").startswith(tuple(names)) and line[-1] != "="
    ]


def test_every_secret_that_init_makes_is_one_that_is_checked_here() -> None:
    made = {*secret.HANDS, *secret.LANGFUSE, secret.LANGFUSE_PUBLIC, "OPENAI_COMPAT_KEY"}
    assert made == HANDS.keys()
    assert set(secret.BRAIN) == BRAIN.keys()
    assert {"qdrant", "langfuse", "searxng"} == set(PROFILES["hands"])


def test_secrets_of_third_party_settings_are_not_in_their_files() -> None:
    settings = yaml.safe_load((REPOSITORY / "services/searxng/settings.yml").read_text("utf-8"))
    assert "secret_key" not in settings["server"]
