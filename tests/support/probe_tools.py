"""A tool server for tests: one tool per behaviour that the agent has to deal with."""

import asyncio
from collections import Counter

from mcp.server import MCPServer
from mcp.types import ToolAnnotations
from pydantic import BaseModel

READ = ToolAnnotations(read_only_hint=True)
WRITE = ToolAnnotations(read_only_hint=False, destructive_hint=True)


class Echo(BaseModel):
    text: str
    count: int


class Probe:
    """The server with what its tools were asked to do. `release` lets a `hang` go on."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.release = asyncio.Event()
        self.server = MCPServer("probe", log_level="ERROR")
        self.server.tool(annotations=READ)(self.look)
        self.server.tool(annotations=WRITE)(self.change)
        self.server.tool(annotations=READ)(self.hang)
        self.server.tool(annotations=READ)(self.boom)
        self.server.tool(annotations=READ)(self.lie)

    async def look(self, text: str) -> Echo:
        """Reads something."""
        self.calls["look"] += 1
        return Echo(text=text, count=self.calls["look"])

    async def change(self, text: str) -> Echo:
        """Changes something."""
        self.calls["change"] += 1
        return Echo(text=text, count=self.calls["change"])

    async def hang(self) -> Echo:
        """Takes until it is released."""
        self.calls["hang"] += 1
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return Echo(text="released", count=1)

    async def boom(self) -> Echo:
        """Fails with a defect."""
        self.calls["boom"] += 1
        raise RuntimeError("a defect")

    async def lie(self) -> Echo:
        """Breaks its own output schema."""
        self.calls["lie"] += 1
        return {"text": 5, "count": "many"}  # type: ignore[return-value]
