"""Sessions to tool servers: opened one by one, and opened again when they were lost."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.server import MCPServer, Server
from mcp.types import CallToolResult
from mcp.types import Tool as McpTool

from contracts.errors import ToolError
from orchestrator.agent.tool_transport import (
    MAX_ANSWER_BYTES,
    Remote,
    http_client,
    may_have_begun,
)
from orchestrator.agent.values import mended_text

CONNECT_S = 5.0
RETRY_FIRST_S = 0.5
RETRY_MAX_S = 5.0
LOOK_AGAIN_S = 10.0
PAGE_LIMIT = 100

Source = MCPServer | Server[Any] | Remote
log = logging.getLogger(__name__)


class SessionLost(ConnectionError):
    """The server went away in the middle of a call: whether it took effect is not known."""


class ToolServer:
    """One tool server. `declared` are its tools as last listed; `problem` says why it is down.

    A task of its own holds the session: a session has to be closed by the task that opened it,
    and one that breaks cancels that task, which must not be the one that holds the others.
    A server at a URL is looked at again every LOOK_AGAIN_S while it has nothing to do: it may have
    gone, or have been replaced by one with other tools, without a call that would tell."""

    def __init__(self, name: str, source: Source, on_listed: Callable[[], None]) -> None:
        self.name = name
        self.declared: list[McpTool] = []
        self.problem: str | None = None
        self._source = source
        self._on_listed = on_listed
        self._client: Client | None = None
        self._calls = 0
        self._told: str | None = None
        self._tried = asyncio.Event()
        self._lost = asyncio.Event()
        self._holder: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def remote(self) -> Remote | None:
        return self._source if isinstance(self._source, Remote) else None

    async def open(self) -> None:
        """Begin to hold the session; returns after the first attempt, whatever came of it."""
        self._holder = asyncio.create_task(self._hold(), name=f"tools {self.name}")
        await self._tried.wait()

    async def close(self) -> None:
        self._closing = True
        self._lost.set()
        if self._holder is not None:
            await self._holder

    async def call(self, tool: str, arguments: dict[str, Any]) -> CallToolResult:
        """Raises ToolError when the server is down or refuses the call, SessionLost when it went
        away in the middle; what breaks the output schema comes as the library's RuntimeError."""
        client = self._client
        if client is None:
            raise self.unavailable(tool, self.problem or "it is being connected")
        try:
            with self._counted():
                return await client.call_tool(tool, arguments)
        except RuntimeError:
            raise
        except Exception as error:  # boundary: each transport has errors of its own
            await self._look(client)
            begun = may_have_begun(error) if isinstance(error, MCPError) else True
            if begun is False:
                raise self.unavailable(tool, _reason(error)) from error
            if begun or self._client is not client:
                raise SessionLost(_reason(error)) from error
            raise ToolError(
                "tool_failed", f"{tool} failed: {mended_text(str(error))}", "See its server's log."
            ) from error

    def unavailable(self, tool: str, why: str) -> ToolError:
        return ToolError(
            "tool_unavailable",
            f"{tool}: its server {self.name} does not answer: {why}.",
            "Do without it; `variet doctor` tells what is wrong with the server.",
        )

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    async def _look(self, client: Client) -> None:
        """List the tools again. A session that does not even do that is given up, but for calls
        that still run: they find out by themselves, and the end of the session would lose them."""
        try:
            async with asyncio.timeout(CONNECT_S):
                declared = await _all_tools(client)
        except Exception as error:  # boundary: any failure means that the session is lost
            if self._client is client and not self._calls:
                self.problem = _reason(error)
                self._client = None
                self._lost.set()
            return
        if self._client is client and declared != self.declared:
            log.info("the tools of %s have changed", self.name)
            self.declared = declared
            self._on_listed()

    async def _hold(self) -> None:
        delay = RETRY_FIRST_S
        while not self._closing:
            try:
                await self._session()
                delay = RETRY_FIRST_S
            except Exception as error:  # boundary: a dead server leaves the others in use
                self.problem = _reason(error)
            self._client = None
            self._tried.set()
            if self._closing:
                return
            self._warn()
            self._lost.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._lost.wait()
            delay = min(2 * delay, RETRY_MAX_S)

    def _warn(self) -> None:
        if self.problem != self._told:
            log.warning("the tool server %s is down: %s", self.name, self.problem)
        self._told = self.problem

    async def _session(self) -> None:
        """Hold one session until it is lost or closed."""
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(CONNECT_S):
                client = await self._connect(stack)
                declared = await _all_tools(client)
            self.declared, self.problem, self._client = declared, None, client
            if self._told is not None:
                log.info("the tool server %s is back", self.name)
            self._told = None
            self._lost.clear()
            self._on_listed()
            self._tried.set()
            while not (self._closing or self._lost.is_set()):
                await self._rest(client)

    async def _connect(self, stack: AsyncExitStack) -> Client:
        if not isinstance(self._source, Remote):
            return await stack.enter_async_context(Client(self._source))
        http = await stack.enter_async_context(http_client(self._source))
        transport = streamable_http_client(
            self._source.url, http_client=http, max_sse_event_size=MAX_ANSWER_BYTES
        )
        return await stack.enter_async_context(Client(transport))

    async def _rest(self, client: Client) -> None:
        """Wait until the session is lost; meanwhile look whether the server is as it was."""
        try:
            async with asyncio.timeout(LOOK_AGAIN_S if self.remote else None):
                await self._lost.wait()
        except TimeoutError:
            if not self._calls:
                await self._look(client)


async def _all_tools(client: Client) -> list[McpTool]:
    page = await client.list_tools(cache_mode="refresh")
    tools = list(page.tools)
    for _ in range(PAGE_LIMIT):
        if page.next_cursor is None:
            return tools
        page = await client.list_tools(cursor=page.next_cursor, cache_mode="refresh")
        tools += page.tools
    raise RuntimeError(f"its list of tools has more than {PAGE_LIMIT} pages")


def _reason(error: BaseException) -> str:
    """The innermost error of a group, in words."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = mended_text(str(error))
    if isinstance(error, MCPError) and may_have_begun(error) is not None:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
