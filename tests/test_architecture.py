"""The floors of the house: a folder imports only from those below it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BELOW = {
    "contracts": set[str](),
    "models": {"contracts"},
    "tools": {"contracts"},
    "services": {"contracts", "models"},
    "orchestrator": {"contracts", "models"},
    "cli": {"contracts", "models", "services", "orchestrator"},
}
# The one module that mounts tool servers in the orchestrator's own process.
MOUNTS_TOOLS = Path("orchestrator/embedded.py")
# The recipe of the demo model: it trains on what the orchestrator and the tools really say.
RECIPE = Path("models/nano")
BROAD = re.compile(r"^\s*except\s*(\(?.*\b(Base)?Exception\b.*)?:")
FILES = sorted(
    path.relative_to(ROOT)
    for package in BELOW
    for path in (ROOT / package).rglob("*.py")
    if RECIPE not in path.relative_to(ROOT).parents
)


def imported(path: Path) -> Iterator[str]:
    """Names of modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floors(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(path)} & ({*BELOW, "tests"})


def test_the_packages_are_there() -> None:
    assert {path.parts[0] for path in FILES} == set(BELOW)


@pytest.mark.parametrize("package", BELOW)
def test_a_folder_imports_only_from_below(package: str) -> None:
    for path in FILES:
        if path.parts[0] != package:
            continue
        allowed = BELOW[package] | {package} | ({"tools"} if path == MOUNTS_TOOLS else set())
        assert floors(path) <= allowed, f"{path} imports {floors(path) - allowed}"


def test_a_service_imports_no_other_service() -> None:
    for path in FILES:
        if path.parts[0] != "services" or len(path.parts) < 3:
            continue
        named = {name.split(".")[1] for name in imported(path) if name.startswith("services.")}
        others = {n for n in named - {path.parts[1]} if (ROOT / "services" / n).is_dir()}
        assert not others, f"{path} imports {others}"


def test_the_recipe_of_the_demo_model_is_used_by_nothing_else() -> None:
    """Nothing that runs in production imports it."""
    users = [path for path in FILES for name in imported(path) if name.startswith("models.nano")]
    assert users == []


def test_whoever_catches_everything_says_why() -> None:
    silent = []
    for path in FILES:
        lines = (ROOT / path).read_text("utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            here = " ".join(lines[number - 1 : number + 1])
            if BROAD.match(line) and "# boundary: " not in here:
                silent.append(f"{path}:{number}")
    assert not silent, f"`# boundary: reason` is missing: {silent}"


def test_modules_stay_readable() -> None:
    """Three hundred lines is the aim; nothing may grow far beyond it."""
    long = {str(p): n for p in FILES if (n := len((ROOT / p).read_text().splitlines())) > 400}
    assert not long
