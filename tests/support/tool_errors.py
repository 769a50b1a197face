"""What a tool's error result says."""

import json

from mcp_types import CallToolResult, TextContent


def error_of(result: CallToolResult) -> dict[str, str]:
    """The code, message and remedy that a model reads; the text has to be exactly that."""
    assert result.is_error
    [content] = result.content
    assert isinstance(content, TextContent)
    body = json.loads(content.text)
    assert body.keys() == {"error"}
    error: dict[str, str] = body["error"]
    assert error.keys() == {"code", "message", "remedy"}
    assert all(error.values())
    return error
