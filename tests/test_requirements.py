"""Every promise names tests that exist."""

import ast
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).parent
PROMISES: dict[str, list[str]] = yaml.safe_load(
    (HERE / "requirements.yaml").read_text(encoding="utf-8")
)


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize("promise", PROMISES)
def test_every_promise_names_tests_that_exist(promise: str) -> None:
    assert PROMISES[promise]
    for name in PROMISES[promise]:
        file, test = name.split("::")
        assert test in functions(HERE / file), name
