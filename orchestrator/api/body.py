"""What a body may hold where its form leaves it open."""

from typing import Any

from contracts.errors import Unprocessable
from orchestrator.agent.values import flaw


def check_value(name: str, value: Any) -> None:
    """Raises Unprocessable for a value that cannot be stored and sent on: broken Unicode, numbers
    that JSON does not know, integers of more than 64 bits, too deep a nest."""
    if problem := flaw(value):
        raise Unprocessable("bad_value", f"{name}: {problem}.", "Correct it.")
