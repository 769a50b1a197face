"""Variet with the benchmark's one tool and no index; all else is what `python -m orchestrator`
runs: the same stores on disk, the same journal, routes and gate.

Run by `tests.bench`: `python -m tests.bench.variet ENGINE_URL STATE_DIR`.
"""

import asyncio
import json
import logging
import sys
from pathlib import Path

from mcp.server import MCPServer
from mcp.types import ToolAnnotations
from pydantic import BaseModel

from contracts.settings import Settings
from orchestrator.agent.model import Engine
from orchestrator.assembly import Orchestrator
from orchestrator.serve import serve
from tests.bench.tool import DESCRIPTION, NAME, value_at
from tests.support.no_index import NoIndex


class Value(BaseModel):
    series: str
    position: int
    value: float
    unit: str


async def read_value(series: str, position: int) -> Value:
    return Value.model_validate(value_at(series, position))


def tool_server() -> MCPServer:
    server = MCPServer("bench", log_level="ERROR")
    notes = ToolAnnotations(read_only_hint=True)
    server.tool(NAME, description=DESCRIPTION, annotations=notes)(read_value)
    return server


def announce(url: str, _model: str, _withheld: list[str]) -> None:
    print(json.dumps({"url": url}), flush=True)


def main(engine_url: str, state: Path) -> None:
    server = tool_server()
    orchestrator = Orchestrator(
        Settings(state_dir=state, port=0, openai_compat_url=engine_url),
        Engine(url=engine_url, key="", model="scripted", context=8_192),
        lambda _settings, _index: {server.name: server},
        NoIndex(),
    )
    asyncio.run(serve(orchestrator, announce))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main(sys.argv[1], Path(sys.argv[2]))
