"""What is known of one part, and how people and programs are told."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from rich.console import Console

from cli.show import line
from cli.text import exact
from contracts.deployment import Role
from contracts.errors import VarietError

Status = Literal["ok", "warning", "failure"]
MARKS: dict[Status, tuple[str, str]] = {
    "ok": ("✓", "green"),
    "warning": ("!", "yellow"),
    "failure": ("✗", "red"),
}


@dataclass(frozen=True)
class Finding:
    """What is known of one part. `remedy` is empty when nothing needs to be done."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


def ok(name: str, detail: str) -> Finding:
    return Finding(name, "ok", detail)


def warning(name: str, detail: str, remedy: str) -> Finding:
    return Finding(name, "warning", detail, remedy)


def failure(name: str, detail: str, remedy: str) -> Finding:
    return Finding(name, "failure", detail, remedy)


def told(name: str, error: VarietError) -> Finding:
    return Finding(name, "failure", error.message, error.remedy)


def report(findings: Sequence[Finding], role: Role | None, as_json: bool) -> int:
    """Print them all. Returns the exit status: 1 if any is a failure."""
    failed = any(one.status == "failure" for one in findings)
    if as_json:
        status = "failure" if failed else "ok"
        whole = {"status": status, "role": role, "checks": list(map(asdict, findings))}
        sys.stdout.write(json.dumps(whole, indent=2) + "\n")
        return int(failed)
    console = Console()
    width = max(len(one.name) for one in findings) + 2
    for one in findings:
        mark, style = MARKS[one.status]
        line(console, f"{mark} {one.name:<{width}}", style, end="")
        line(console, exact(one.detail))
        if one.remedy:
            line(console, f"  {'':<{width}}→ {exact(one.remedy)}", style)
    return int(failed)
