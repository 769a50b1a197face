"""Writes the settings down for people: `.env.example`, and the table in the README.

python -m contracts.settings_table           # write both anew
python -m contracts.settings_table --check   # exit 1 if either is out of date
"""

import sys
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from contracts.settings import REPOSITORY, Settings

BEGIN, END = "<!-- settings -->", "<!-- /settings -->"
HEADER = """\
# Every setting of Variet. Copy this file to .env and uncomment what you change.
"""


def env_example() -> str:
    blocks = [HEADER]
    for name, field in Settings.model_fields.items():
        blocks.append(f"# {_sentence(field)}\n# {name.upper()}={_default(field)}\n")
    return "\n".join(blocks)


def table() -> str:
    rows = ["| setting | default | meaning |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = _default(field)
        shown = f"`{default}`" if default else ""
        rows.append(f"| `{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(rows)


def with_table(text: str) -> str:
    """A document with the table between its two marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


def main(arguments: list[str]) -> int:
    readme = REPOSITORY / "README.md"
    wanted = {
        REPOSITORY / ".env.example": env_example(),
        readme: with_table(readme.read_text("utf-8")),
    }
    stale = [p for p, text in wanted.items() if not p.exists() or p.read_text("utf-8") != text]
    if "--check" in arguments:
        for path in stale:
            print(f"{path.name} is out of date: run `make docs`.", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(wanted[path], "utf-8")
    return 0


def _sentence(field: FieldInfo) -> str:
    text = field.description or ""
    return f"{text[:1].upper()}{text[1:]}."


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if value is None:
        return ""
    if isinstance(value, Path):
        return str(value.relative_to(REPOSITORY))
    if isinstance(value, bool):
        return str(int(value))
    return str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
