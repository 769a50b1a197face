"""Writes the settings down for people: `.env.example`, docs/settings.md, and in the README those
that are changed most.

python -m contracts.settings_table           # write all three anew
python -m contracts.settings_table --check   # exit 1 if one is out of date
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from contracts.broker_settings import BrokerSettings
from contracts.deployment import Deployment
from contracts.gateway_settings import GatewaySettings
from contracts.settings import REPOSITORY, Settings

# The broker has some of the others' settings, too.
PAGES = (Settings, Deployment, GatewaySettings, BrokerSettings)
BEGIN, END = "<!-- settings -->", "<!-- /settings -->"
HEADER = """\
# Every setting of Variet, with its meaning, unit, host and default. `variet init` writes .env for a
# host of two; on one machine none is needed. Copy a line to .env and uncomment it to change it.
"""
PAGE = """\
# Settings

Read from the environment, and from `.env` (or the file that `VARIET_ENV_FILE` names). `variet init`
writes that file for a host of two and makes the secrets; on one machine none is needed. Host: where
a setting is read, the brain (it has the cards) or the hands (the workstation); empty: wherever that
part runs. This page is made from the code by `make docs`.
"""
# The first setting of each section.
SECTIONS = {
    "bind_addr": "Where the orchestrator listens, and who may call it",
    "openai_compat_url": "Which model answers",
    "embed_url": "Knowledge",
    "state_dir": "Files and tools",
    "tool_host": "Tool servers of their own",
    "approval_ttl_s": "Runs",
    "langfuse_base_url": "Traces",
    "log_level": "Log",
    "variet_role": "This host of two",
    "engine_tier": "The brain's engines",
    "postgres_password": "Secrets of the workstation's stack",
    "langfuse_port": "Langfuse, where its profile is selected",
    "gateway_host": "The brain's gateway",
    "gateway_queue": "Who waits for a model, and what stays loaded",
    "compose_project_name": "The broker, and what it lets engines have",
}
# Of numbers whose name does not end with their unit.
UNITS = {
    "max_model_len": "tokens",
    "max_tokens": "tokens",
    "max_steps": "calls",
    "raw_runs": "runs",
    "engine_threads": "threads",
    "engine_parallel": "requests",
    "engine_cpus": "cores",
    "engine_memory": "bytes, or with m or g",
    "gpu_mem_util": "share, 0 to 1",
    "temperature": "0 to 2",
    "gateway_queue": "requests",
    "variet_uid": "user id",
    "variet_gid": "group id",
}
SUFFIXES = {"_s": "seconds", "_mib": "MiB", "_days": "days", "port": "port"}


@dataclass(frozen=True)
class Row:
    """One setting as people read it."""

    section: str
    name: str
    default: str
    unit: str
    host: str
    meaning: str
    secret: bool
    common: bool


def fields() -> dict[str, FieldInfo]:
    """Every setting of all pages, each once."""
    found: dict[str, FieldInfo] = {}
    for page in PAGES:
        found.update((n, f) for n, f in page.model_fields.items() if n not in found)
    return found


def rows() -> Iterator[Row]:
    """Each setting as a row, in the order of the pages."""
    section = ""
    for name, field in fields().items():
        section = SECTIONS.get(name, section)
        yield _row(section, name, field)


def env_example() -> str:
    blocks, section = [HEADER], ""
    for row in rows():
        if row.section != section:
            section = row.section
            blocks.append(f"# ---- {section} ----\n")
        text = f"{row.meaning[:1].upper()}{row.meaning[1:]}"
        notes = [text, *([f"unit: {row.unit}"] if row.unit else [])]
        notes += [f"host: {row.host}"] if row.host else []
        notes += ["secret"] if row.secret else []
        blocks.append(f"# {'; '.join(notes)}.\n# {row.name}={row.default}\n")
    return "\n".join(blocks)


def page() -> str:
    lines, section = [PAGE], ""
    for row in rows():
        if row.section != section:
            section = row.section
            lines.append(f"\n## {section}\n\n| setting | default | unit | host | meaning |")
            lines.append("| --- | --- | --- | --- | --- |")
        cells = (f"`{row.name}`", _code(row.default), row.unit, row.host, _meaning(row))
        lines.append(_cells(*cells))
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


def table() -> str:
    """Those that are changed most."""
    lines = ["| setting | default | meaning |", "| --- | --- | --- |"]
    shown = (row for row in rows() if row.common)
    lines += [_cells(f"`{row.name}`", _code(row.default), row.meaning) for row in shown]
    return "\n".join(lines)


def with_table(text: str) -> str:
    """A document with the table between its two marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


def main(arguments: list[str]) -> int:
    readme = REPOSITORY / "README.md"
    wanted = {
        REPOSITORY / ".env.example": env_example(),
        REPOSITORY / "docs" / "settings.md": page(),
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


def _row(section: str, name: str, field: FieldInfo) -> Row:
    given = field.json_schema_extra
    extra = given if isinstance(given, dict) else {}
    return Row(
        section=section,
        name=name.upper(),
        default=_default(field),
        unit=_unit(name, field),
        host=str(extra.get("host", "")),
        meaning=(field.description or "").rstrip("."),
        secret="SecretStr" in str(field.annotation),
        common=bool(extra.get("common")),
    )


def _unit(name: str, field: FieldInfo) -> str:
    if name in UNITS:
        return UNITS[name]
    numeric = "int" in str(field.annotation) or "float" in str(field.annotation)
    return next((u for end, u in SUFFIXES.items() if numeric and name.endswith(end)), "")


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if value is None or value is PydanticUndefined or isinstance(value, SecretStr):
        return ""
    if isinstance(value, Path):
        return str(value.relative_to(REPOSITORY) if value.is_relative_to(REPOSITORY) else value)
    if isinstance(value, bool):
        return str(int(value))
    return str(value)


def _meaning(row: Row) -> str:
    return f"{row.meaning} (secret)" if row.secret else row.meaning


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _cells(*cells: str) -> str:
    """A line of a table: a bar within a cell would end it."""
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
