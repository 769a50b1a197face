"""The variables of both stacks are those of the pages of settings, with their defaults."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from contracts import settings_table
from contracts.deployment import Deployment
from contracts.settings import REPOSITORY
from models.images import PAGE
from tests.compose import stacks

FILES = (stacks.BRAIN, stacks.HANDS, PAGE)
NAME = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)")
DEFAULT = re.compile(r"\$\{([A-Z0-9_]+):-([^${}]+)\}")
FIELDS = {name.upper(): field for name, field in settings_table.fields().items()}
# Words in the place of a value that has no default, for the engine's log to show.
UNSET = re.compile(r"[A-Z_]+-is-not-set|/dev/null")
# Read by the code on the host: by `variet`, its firewall, or Compose itself.
CODE = ("cli", "services/firewall", "services/gateway", "orchestrator")


def texts(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        for branch in tree.values():
            yield from texts(branch)
    elif isinstance(tree, list):
        for branch in tree:
            yield from texts(branch)
    elif tree is not None:
        yield str(tree)


def passed_on(file: dict[str, Any]) -> set[str]:
    """Names under `environment` or `args` without a value: Compose takes it from the settings."""
    services = file["services"].values()
    maps = [service.get("environment", {}) for service in services]
    maps += [service.get("build", {}).get("args", {}) for service in services]
    return {name for one in maps for name, value in one.items() if value is None}


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    return loaded


def used() -> set[str]:
    found: set[str] = set()
    for path in FILES:
        file = load(path)
        found |= passed_on(file)
        found.update(name for text in texts(file) for name in NAME.findall(text))
    return found


def test_every_variable_of_the_stacks_is_a_setting() -> None:
    assert used() <= FIELDS.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_default_is_the_settings_own(path: Path) -> None:
    found = {pair for text in texts(load(path)) for pair in DEFAULT.findall(text)}
    wrong = [
        f"{name}: {default}, not {FIELDS[name].default}"
        for name, default in found
        if not UNSET.fullmatch(default)
        and str(FIELDS[name].default) not in (default, str(REPOSITORY / default), "None")
        and Path(default) != FIELDS[name].default
    ]
    assert wrong == []


def test_every_setting_of_the_stacks_is_used() -> None:
    code = "\n".join(
        path.read_text("utf-8")
        for folder in CODE
        for path in sorted((REPOSITORY / folder).rglob("*"))
        if path.suffix in (".py", ".sh")
    )
    words = set(re.findall(r"\w+", code)) | used()
    idle = [name for name in Deployment.model_fields if not words & {name, name.upper()}]
    assert idle == []


def test_names_are_found_in_nested_expressions_and_without_braces() -> None:
    assert NAME.findall("${A:-${B:-x}}/$C") == ["A", "B", "C"]
    assert DEFAULT.findall("${A:-8000} ${B:-${C:-9}}") == [("A", "8000"), ("C", "9")]
