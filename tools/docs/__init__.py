"""MCP server for questions about the indexed documents."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from mcp.server import MCPServer
from pydantic import Field

from contracts.tools import DocMatches
from tools.tool import tool

Search = Callable[[str, int], Awaitable[DocMatches]]


def server(search: Search) -> MCPServer:
    """A server with the tool `search_docs`. `search(query, limit)` asks the index."""

    async def search_docs(
        query: Annotated[str, Field(min_length=1, max_length=2_000)],
        limit: Annotated[int, Field(ge=1, le=20)] = 5,
    ) -> DocMatches:
        return await search(query, limit)

    made = tool(search_docs, "Search the indexed documents.")
    return MCPServer("docs", tools=[made])
