"""A tool server without the library's courtesy: it lists and returns exactly what a test says."""

from collections.abc import Callable, Sequence
from typing import Any

from mcp.server import Server
from mcp.types import CallToolResult, ListToolsResult, TextContent, Tool, ToolAnnotations

READ = ToolAnnotations(read_only_hint=True)
Answer = Callable[[str, dict[str, Any]], Any]


def declared(name: str, output: dict[str, Any] | None = None, **more: Any) -> Tool:
    """A tool that reads and takes anything."""
    fields = {"input_schema": {"type": "object"}, "annotations": READ} | more
    return Tool(name=name, description=f"Does {name}.", output_schema=output, **fields)


def raw_server(name: str, pages: Sequence[Sequence[Tool]], answer: Answer) -> Server[Any]:
    """Lists its tools in pages. `answer` gives a call's structured content; a str or None is a
    result without one; an exception is an error result of its text."""

    async def list_tools(_: Any, params: Any) -> ListToolsResult:
        page = int(params.cursor) if params is not None and params.cursor else 0
        following = str(page + 1) if page + 1 < len(pages) else None
        return ListToolsResult(tools=list(pages[page]), next_cursor=following)

    async def call_tool(_: Any, params: Any) -> CallToolResult:
        try:
            given = answer(params.name, params.arguments or {})
        except ValueError as error:
            return CallToolResult(content=[TextContent(text=str(error))], is_error=True)
        if given is None or isinstance(given, str):
            return CallToolResult(content=[TextContent(text=given or "")])
        return CallToolResult(content=[], structured_content=given)

    return Server(name, on_list_tools=list_tools, on_call_tool=call_tool)
