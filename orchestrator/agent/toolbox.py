"""The tools: what is offered, schema checks on both sides, time limits."""

import asyncio
import contextlib
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from mcp.types import CallToolResult, TextContent
from mcp.types import Tool as McpTool

from contracts.errors import NotFound, ToolError, Unprocessable
from orchestrator.agent.policy import READONLY_WHEN, REFUSED, Traits, readonly_values, refusal
from orchestrator.agent.schemas import compile_schema, problem_of, told
from orchestrator.agent.toolservers import SessionLost, Source, ToolServer
from orchestrator.agent.values import flaw, is_text, mended, mended_text

GATHER_S = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as its server declares it, with validators for what goes in and comes out."""

    name: str
    description: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None
    traits: Traits
    arguments: Draft202012Validator
    result: Draft202012Validator | None
    server: ToolServer

    def openai(self) -> dict[str, Any]:
        """The tool in the form of OpenAI's `tools` list."""
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": self.input_schema,
            },
        }


class Toolbox:
    """Sessions to the tool servers. Enter it once; leave it to close them.

    `tools` are those in use, in the order of the servers and their lists; `refused` says of each
    other one, as `server.tool`, why it is not used. Of two tools with one name the first counts:
    a server added later cannot take another's place."""

    def __init__(self, servers: Mapping[str, Source], timeout_s: float) -> None:
        self._servers = [
            ToolServer(name, source, self._collect) for name, source in servers.items()
        ]
        self._timeout_s = timeout_s
        self.tools: dict[str, Tool] = {}
        self.refused: dict[str, str] = {}
        self._listed = asyncio.Event()
        self._gather_until = 0.0

    async def __aenter__(self) -> "Toolbox":
        self._gather_until = asyncio.get_running_loop().time() + GATHER_S
        await asyncio.gather(*(server.open() for server in self._servers))
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.gather(*(server.close() for server in self._servers))

    @property
    def down(self) -> dict[str, str]:
        """Servers that do not answer, with the reason."""
        return {s.name: s.problem for s in self._servers if s.problem is not None}

    def _collect(self) -> None:
        tools: dict[str, Tool] = {}
        refused: dict[str, str] = {}
        for server in self._servers:
            for declared in server.declared:
                first = tools.get(declared.name)
                if first is not None:
                    why = f"{first.server.name} has a tool of that name"
                    refused[f"{server.name}.{declared.name}"] = why
                    continue
                try:
                    tools[declared.name] = _tool(declared, server)
                except SchemaError as error:
                    why = f"its declaration is wrong: {told(error)}"
                    refused[f"{server.name}.{mended_text(declared.name)}"] = why
        for name, why in refused.items():
            if name not in self.refused:
                log.warning("the tool %s is not used: %s", name, why)
        self.tools, self.refused = tools, refused
        self._listed.set()
        self._listed = asyncio.Event()

    async def gathered(self) -> None:
        """Wait until every server has been heard of, until GATHER_S after the opening at most:
        after a reboot the containers start in any order, and a run that is continued without its
        tools ends without them."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._gather_until):
                while any(s.problem and not s.declared for s in self._servers):
                    await self._listed.wait()

    def absent(self, name: str) -> str | None:
        """Why this tool cannot be called now: its server, or one that may have it, is down."""
        tool = self.tools.get(name)
        candidates = [s for s in self._servers if not s.declared] if tool is None else [tool.server]
        down = [f"{s.name} does not answer: {s.problem}" for s in candidates if s.problem]
        return "; ".join(down) or None

    def offered(self, evaluated: Iterable[str] | None) -> list[dict[str, Any]]:
        """OpenAI forms of the tools that a model is offered, all of them unless limited."""
        allowed = set(self.tools) if evaluated is None else set(evaluated)
        return [tool.openai() for name, tool in self.tools.items() if name in allowed]

    def tool(self, name: str) -> Tool:
        found = self.tools.get(name)
        if found is None:
            why = self.absent(name)
            raise NotFound(
                "unknown_tool",
                f"There is no tool named {name!r}{f' now: {why}' if why else ''}.",
                f"The tools are: {', '.join(sorted(self.tools))}.",
            )
        return found

    def check_arguments(self, name: str, arguments: dict[str, Any]) -> None:
        """Raises Unprocessable that names the argument at fault."""
        tool = self.tool(name)
        problem = flaw(arguments)
        if problem is None and (broken := problem_of(tool.arguments, arguments)):
            problem = told(broken)
        if problem is not None:
            raise Unprocessable(
                "bad_arguments", f"{name}: {problem}.", "Correct the arguments and call again."
            )

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """Run a tool and return its checked result. Raises ToolError for whatever goes wrong, but
        SessionLost when nobody knows whether a call that changes something took effect."""
        tool = self.tool(name)
        remote = tool.server.remote
        own_limit = remote.timeout_s if remote else None
        timeout_s = own_limit or self._timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                outcome = await tool.server.call(name, arguments)
        except TimeoutError:
            raise ToolError(
                "tool_timeout",
                f"{name} did not finish within {timeout_s:g} s and was stopped"
                f"{'' if tool.traits.read_only else '; it may have taken effect'}.",
                f"Ask for less, or raise {'its timeout_s' if own_limit else 'TOOL_TIMEOUT_S'}.",
            ) from None
        except SessionLost as error:
            if not tool.traits.read_only:
                raise
            raise tool.server.unavailable(name, str(error)) from error
        except RuntimeError as error:
            # The client library checks the output schema too, and wraps what it finds.
            cause = error.__cause__
            raise _bad_result(
                name, told(cause) if isinstance(cause, ValidationError) else str(error)
            ) from error
        if outcome.is_error:
            raise _declared_error(name, outcome)
        return _checked(tool, outcome)


def arguments_hash(name: str, arguments: dict[str, Any]) -> str:
    """SHA-256 of a tool's name and its exact arguments, with sorted keys."""
    text = json.dumps([name, arguments], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _tool(declared: McpTool, server: ToolServer) -> Tool:
    if not is_text(declared.name):
        raise SchemaError(f"its name {declared.name!r} is no text")
    notes, meta = declared.annotations, declared.meta or {}
    traits = Traits(
        server=server.name,
        read_only=bool(notes and notes.read_only_hint),
        destructive=notes is None or notes.destructive_hint is not False,
        open_world=bool(notes and notes.open_world_hint),
        readonly_when=readonly_values(meta.get(READONLY_WHEN)),
        refused=refusal(meta.get(REFUSED)),
    )
    return Tool(
        name=declared.name,
        description=mended_text(declared.description or ""),
        input_schema=declared.input_schema,
        output_schema=declared.output_schema,
        traits=traits,
        arguments=compile_schema(declared.input_schema),
        result=compile_schema(declared.output_schema) if declared.output_schema else None,
        server=server,
    )


def _checked(tool: Tool, outcome: CallToolResult) -> Any:
    """The result, if it keeps to the tool's schema and can be carried; its text mended."""
    result = outcome.structured_content
    if result is None:
        result = {"text": _text(outcome)}
    problem = flaw(result)
    if problem is not None:
        result = mended(result)
        problem = flaw(result)
    if problem is None and tool.result is not None and (broken := problem_of(tool.result, result)):
        problem = told(broken)
    if problem is not None:
        raise _bad_result(tool.name, problem)
    return result


def _bad_result(name: str, problem: str) -> ToolError:
    return ToolError(
        "bad_result",
        f"{name} broke its own output schema: {problem}.",
        "Report it to whoever maintains the tool; its result was not used.",
    )


def _text(outcome: CallToolResult) -> str:
    return "\n".join(part.text for part in outcome.content if isinstance(part, TextContent))


def _declared_error(name: str, outcome: CallToolResult) -> ToolError:
    """Our tools put `{"error": {code, message, remedy}}` into the text; others any text."""
    text = mended(_text(outcome))
    start = text.find('{"error"')
    try:
        body = json.loads(text[start:])["error"] if start >= 0 else None
        if body is None or flaw(body):
            return _plain(name, text)
        return ToolError(str(body["code"]), str(body["message"]), str(body["remedy"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return _plain(name, text)


def _plain(name: str, text: str) -> ToolError:
    return ToolError("tool_failed", f"{name} failed: {text[:500]}", "See the tool's log.")
