"""The page docs/cli.md, made of the commands' own help: `python -m cli.reference`."""

import sys
from collections.abc import Iterator
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner

from cli.main import app

WIDTH = "80"
INTRODUCTION = """\
# The command `variet`

<!-- Made by `make docs` from the commands' own help. Change the help, not this page. -->

`make env` puts it at `.venv/bin/variet`. Every command speaks to the orchestrator over HTTP, at
`--url`, `VARIET_URL` or this machine's `PORT`, with the key in `VARIET_API_KEY`; only `demo` and
`run` start anything. `tiers`, `swap` and `wake` speak to the brain's gateway, at
`OPENAI_COMPAT_URL` or on the brain at its own address, with `GATEWAY_ADMIN_KEY` or else the key of
whoever asks the models.
"""


def page() -> str:
    return "\n".join([INTRODUCTION, *_sections()])


def _sections() -> Iterator[str]:
    for words in _commands(get_command(app)):
        yield f"## {' '.join(('variet', *words))}\n\n```text\n{_help(words)}\n```\n"


def _commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands(inner, (*words, name))


def _help(words: tuple[str, ...]) -> str:
    environment = {"COLUMNS": WIDTH, "TERMINAL_WIDTH": WIDTH, "NO_COLOR": "1"}
    result = CliRunner().invoke(app, [*words, "--help"], prog_name="variet", env=environment)
    assert result.exit_code == 0, result.output
    return "\n".join(line.rstrip() for line in result.output.strip().splitlines())


if __name__ == "__main__":
    sys.stdout.write(page())
