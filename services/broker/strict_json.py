"""JSON that means the same to every reader: no key twice, no NaN, no text that is not Unicode."""

import json
from typing import Any

from services.broker.refusal import Refusal, shown


def read_json(data: bytes | str, what: str) -> Any:
    """The value of a JSON text. Raises Refusal that names `what`."""
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
        # A lone surrogate can be written with \u, and is no text.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise Refusal(f"{what} is not strict JSON: {shown(str(error))}", 400) from error
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {shown(key)} stands twice")
        found[key] = value
    return found


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number")
