"""The log tool: search the log files by text, level and time."""

from pathlib import Path
from typing import Annotated

from mcp.server import MCPServer
from pydantic import Field

from contracts.tools import LogLevel, LogMatches
from tools.logs.search import Filter, search
from tools.tool import tool

DEFAULT_LIMIT = 20
MAX_LIMIT = 200

Query = Annotated[str | None, Field(description="words that an entry holds, in any case")]
Level = Annotated[LogLevel | None, Field(description="this level and above")]
Since = Annotated[str | None, Field(description="ISO time, or HH:MM of any day")]
Until = Annotated[str | None, Field(description="ISO time, or HH:MM of any day, inclusive")]
Regex = Annotated[str | None, Field(description="regular expression that an entry matches")]
File = Annotated[str | None, Field(description="file name, may hold * and ?")]
Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT, description="entries at most")]


def server(logs_dir: Path) -> MCPServer:
    """An MCP server over the files directly in `logs_dir`, which are read anew at every call."""

    def search_logs(
        query: Query = None,
        level: Level = None,
        since: Since = None,
        until: Until = None,
        regex: Regex = None,
        file: File = None,
        limit: Limit = DEFAULT_LIMIT,
    ) -> LogMatches:
        wanted = Filter(query, level, since, until, pattern=regex)
        return search(logs_dir, wanted, file, limit)

    return MCPServer(
        "logs", tools=[tool(search_logs, "Search the log files by text, level and time.")]
    )
