"""A tool of an MCP server whose failures a model can read.

The text of an error result is exactly `{"error": {"code", "message", "remedy"}}`, where the SDK
would put its own words before it or, for an exception that it does not know, hide the reason.
"""

import json
from collections.abc import Callable
from typing import Any

from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool as SdkTool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase
from mcp_types import CallToolResult, TextContent, ToolAnnotations
from pydantic import BaseModel, ConfigDict, ValidationError

from contracts.errors import VarietError

Schema = dict[str, Any]

READ_ONLY = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)


class Tool(SdkTool):
    """An SDK tool that answers a VarietError, wrong arguments and a result that breaks the tool's
    own schema as an error result. Any other exception stays hidden, as the SDK has it."""

    async def run(
        self, arguments: dict[str, Any], context: Any, convert_result: bool = False
    ) -> Any:
        try:
            return await super().run(arguments, context, convert_result)
        except ToolError as error:
            body = self._explain(error, error.__cause__)
            if body is None:
                raise
            text = json.dumps({"error": body}, ensure_ascii=False)
            return CallToolResult(content=[TextContent(text=text)], is_error=True)

    def _explain(self, error: ToolError, cause: BaseException | None) -> dict[str, str] | None:
        if isinstance(cause, VarietError):
            return cause.body()
        if not isinstance(cause, ValidationError):
            return None
        if type(error) is ToolError:
            return {
                "code": "bad_arguments",
                "message": f"{self.name}: {describe(cause)}.",
                "remedy": "Correct the arguments and call the tool again.",
            }
        return {
            "code": "bad_tool_result",
            "message": f"{self.name} broke its own output schema: {describe(cause)}.",
            "remedy": "This is a defect of the tool; report it.",
        }


def tool(
    function: Callable[..., Any],
    description: str,
    annotations: ToolAnnotations = READ_ONLY,
    meta: dict[str, Any] | None = None,
) -> Tool:
    """Make a tool of a function with typed arguments and result; unknown arguments are refused."""
    made = Tool.from_function(function, description=description, annotations=annotations, meta=meta)
    arguments = made.fn_metadata.arg_model
    closed: type[ArgModelBase] = type(
        arguments.__name__, (arguments,), {"model_config": ConfigDict(extra="forbid")}
    )
    made.fn_metadata.arg_model = closed
    made.parameters = plain_schema(closed.model_json_schema(by_alias=True))
    return made  # type: ignore[return-value]


def plain_schema(schema: Schema) -> Schema:
    """A JSON Schema without the titles and null defaults that only cost a model tokens."""
    plain: Schema = {}
    for key, value in schema.items():
        if (key == "title" and isinstance(value, str)) or (key == "default" and value is None):
            continue
        if key in ("properties", "$defs"):
            plain[key] = {name: plain_schema(inner) for name, inner in value.items()}
        elif isinstance(value, dict):
            plain[key] = plain_schema(value)
        elif isinstance(value, list):
            plain[key] = [plain_schema(v) if isinstance(v, dict) else v for v in value]
        else:
            plain[key] = value
    return plain


def describe(error: ValidationError) -> str:
    """A validation error in one line: which keys, what is wrong with them, what they held."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'value'}: {problem['msg']}"
        f" (got {_short(problem['input'])})"
        for problem in error.errors(include_url=False)[:5]
    )


def _short(value: object, limit: int = 80) -> str:
    text = str(value.model_dump()) if isinstance(value, BaseModel) else repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
