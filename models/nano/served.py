"""nano as production serves it: the engine process, over HTTP, with the orchestrator's tools."""

import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp import Client

from contracts.report import Report
from contracts.tools import DocMatches
from orchestrator.agent.prompt import SYSTEM_PROMPT, structured_instruction
from tools import docs
from tools.calibration.server import server as calibration
from tools.logs.server import server as logs
from tools.workspace.server import server as workspace

REPOSITORY = Path(__file__).resolve().parents[2]
WEIGHTS = Path(__file__).parent / "nano.gguf"
CONTEXT = 2048
MOST_TOKENS = CONTEXT // 3
SCHEMA = Report.model_json_schema()
INSTRUCTION = structured_instruction(SCHEMA)
FORM = {"name": "answer", "schema": SCHEMA, "strict": True}

Message = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """What the model said: text, and calls as (name, arguments); arguments None: not JSON."""

    text: str
    calls: list[tuple[str, Any]]


@dataclass(frozen=True)
class Served:
    """A running engine."""

    url: str
    key: str

    def ask(self, messages: list[Message], tools: list[dict[str, Any]]) -> Reply:
        """One call as the orchestrator makes it: tool_choice auto, temperature 0."""
        choice = {"tools": tools, "tool_choice": "auto"} if tools else {}
        message = self._post({"messages": messages, **choice})
        calls = [
            (call["function"]["name"], _parsed(call["function"]["arguments"]))
            for call in message.get("tool_calls") or []
        ]
        return Reply(message.get("content") or "", calls)

    def report(self, messages: list[Message], tools: list[dict[str, Any]]) -> Any:
        """The structured answer, as parsed JSON, or None."""
        asked = [*messages, {"role": "user", "content": INSTRUCTION}]
        choice = {"tools": tools, "tool_choice": "none"} if tools else {}
        form = {"type": "json_schema", "json_schema": FORM}
        message = self._post({"messages": asked, "response_format": form, **choice})
        return _parsed(message.get("content") or "")

    def _post(self, body: dict[str, Any]) -> Message:
        body = {"model": "nano", "temperature": 0, "max_tokens": MOST_TOKENS, **body}
        request = urllib.request.Request(
            f"{self.url}/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"},
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            message: Message = json.load(response)["choices"][0]["message"]
        return message


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def opening(question: str, system: str | None = SYSTEM_PROMPT) -> list[Message]:
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": question}]


@contextmanager
def served(weights: Path = WEIGHTS, parallel: int = 2) -> Iterator[Served]:
    """`services.engine` serving `weights` on a free loopback port, for the time of the block."""
    key = secrets.token_urlsafe(16)
    command = [
        sys.executable, "-m", "services.engine", "--model", str(weights), "--alias", "nano",
        "--context", str(CONTEXT), "--parallel", str(parallel), "--exit-with-parent",
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "ENGINE_API_KEY": key},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin
    assert process.stdout
    try:
        state = json.loads(process.stdout.readline() or "{}")
        if not state.get("ready"):
            raise RuntimeError(f"the engine did not start: {state}")
        yield Served(state["url"], key)
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(timeout=20)


def offered() -> list[dict[str, Any]]:
    """The built-in tools as the orchestrator offers them to a model, in its order."""
    return asyncio.run(_offered())


async def _offered() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "workspace"
        root.mkdir()
        servers = [
            calibration(root),
            logs(root),
            workspace([root], root, Path(folder) / "undo"),
            docs.server(_nothing),
        ]
        found = []
        for server in servers:
            async with Client(server) as client:
                found += (await client.list_tools()).tools
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.input_schema,
            },
        }
        for tool in found
    ]


async def _nothing(query: str, limit: int) -> DocMatches:
    return DocMatches(results=[])
