"""The names that requests may use, as GET /v1/models lists them."""

import time
from typing import Any
from urllib.parse import unquote

from contracts.errors import NotFound
from services.gateway.front.envelope import shown
from services.gateway.gate import GateProtocol

STARTED = int(time.time())


def listed(gate: GateProtocol) -> dict[str, Any]:
    return {"object": "list", "data": list(_items(gate).values())}


def listed_one(gate: GateProtocol, written: str) -> dict[str, Any]:
    """`written`: the name as it stands in the path. Raises NotFound."""
    items = _items(gate)
    found = items.get(unquote(written))
    if found is None:
        raise NotFound(
            "model_not_found",
            f"There is no model {shown(unquote(written))}.",
            f"Ask for one of: {', '.join(sorted(items))}.",
        )
    return found


def _items(gate: GateProtocol) -> dict[str, dict[str, Any]]:
    states = {status.name: status for status in gate.status().engines}
    items = {}
    for name, spec in gate.catalogue.by_name.items():
        context = gate.running_context(spec)
        state = states.get(spec.name)
        items[name] = {
            "id": name,
            "object": "model",
            "created": STARTED,
            "owned_by": "variet",
            "max_model_len": context,
            "meta": {"n_ctx": context},
            "variet": {
                "engine": spec.name,
                "model": spec.entry.id,
                "kind": spec.entry.kind,
                "state": state.state if state else "stopped",
                "tiers": spec.tiers,
                "needs_mib": dict(state.needs_mib) if state else {},
            },
        }
    return items
