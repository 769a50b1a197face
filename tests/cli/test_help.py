import subprocess
import sys

from cli.reference import page
from contracts.settings import REPOSITORY

HEAVY = ("pydantic", "httpx2", "rich", "langgraph", "langchain_core", "fastapi", "numpy", "asyncio")


def test_the_page_of_commands_is_what_the_help_says() -> None:
    written = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == page(), "docs/cli.md is out of date: run `make docs`"


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
from typer.main import get_command
from cli.main import app
get_command(app)
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_every_command_has_a_runnable_example() -> None:
    sections = page().split("\n## ")[1:]
    without = [s.splitlines()[0] for s in sections if "Commands:" not in s and "Examples:" not in s]
    assert without == []
    for section in sections:
        name = section.splitlines()[0]
        if "Examples:" in section:
            assert f"    {name}" in section.split("Examples:")[1]
