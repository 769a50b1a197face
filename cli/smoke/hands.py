"""The workstation: containers, the brain behind them, a tool's way through a model, retrieval,
approvals, traces, and the door."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pydantic import ValidationError

from cli.address import connect
from cli.client import Client
from cli.compose import Compose, profiles
from cli.ingest import ingest_and_wait
from cli.show import error_line
from cli.smoke.containers import healthy
from cli.smoke.langfuse import find_trace
from cli.smoke.table import Check, Failed
from cli.smoke.wire import Server
from cli.turn import failure
from contracts.chat import ChatRequest, ChatResponse, ToolCall, ToolPending
from contracts.deployment import Deployment
from contracts.errors import Unauthorized, VarietError
from contracts.knowledge import SearchResponse
from contracts.report import Report
from contracts.settings import Settings, load_settings

QUESTION = "Summarize anomalies in boost_target map"
TARGET_S = 10.0
ANSWER_TIMEOUT_S = 300.0
INDEX_TIMEOUT_S = 120.0
SOURCE = "variet-smoke"
FACT = "The smoke test's marker word is quillwort-7413: it means that retrieval works."
ASKED = "What is the marker word quillwort-7413 of the smoke test?"
FILE = "variet-smoke.txt"


@contextmanager
def checks(here: Deployment, url: str | None) -> Iterator[list[Check]]:
    """All rows, in the order in which they build on one another."""
    settings = load_settings()
    off = "" if "langfuse" in profiles(here) else "the profile langfuse is not selected"
    with connect(url, timeout=ANSWER_TIMEOUT_S) as client:
        work = _Work(client, settings)
        try:
            yield [
                Check("containers", lambda: healthy(Compose())),
                Check("brain", lambda: _brain(settings)),
                Check("door", lambda: _door(client.url)),
                Check("tool flow", work.tool_flow),
                Check("retrieval", work.retrieval),
                Check("approval", work.approval),
                Check("trace", work.trace, off),
            ]
        finally:
            work.clean_up()


class _Work:
    """What the checks leave behind for one another, and what is to be taken away afterwards."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._response: ChatResponse | None = None
        self._threads: list[str] = []

    def tool_flow(self) -> str:
        """The model asks for get_map, the tool answers, and the summary says what it said."""
        began = time.monotonic()
        request = ChatRequest(message=QUESTION, response_schema=Report.model_json_schema())
        answer = self._client.post("/chat", request.model_dump(exclude_none=True))
        took = time.monotonic() - began
        response = self._response = ChatResponse.model_validate(answer)
        if response.status != "completed":
            said = error_line(response.error) if response.error else failure(response)
            raise Failed(f"The run is {response.status}: {said}", _see(response))
        called = _map_call(response)
        wanted = _cells(called.result)
        named = _reported(response)
        if wanted - named:
            raise Failed(
                f"get_map found anomalies at {_places(wanted)}; the summary names"
                f" {_places(named) or 'none'}.",
                f"Try a larger model. {_see(response)}",
            )
        self._threads.append(response.thread_id)
        late = "" if took <= TARGET_S else f", over the target of {TARGET_S:.0f} s"
        return (
            f"{response.model} called get_map ({called.ms} ms) and reports {_places(wanted)}"
            f" in {took:.1f} s{late}"
        )

    def retrieval(self) -> str:
        """A text that was just taken in is found and cited, and can be taken out again."""
        client = self._client
        source = f"text:{SOURCE}"
        # What an interrupted test left would be found without having been embedded now.
        client.delete("/ingest", source=source)
        try:
            body = {"text": FACT, "source": SOURCE}
            ingest_and_wait(client, body, within_s=INDEX_TIMEOUT_S)
            found = SearchResponse.model_validate(client.get("/search", q=ASKED, limit=5))
            hits = [one for one in found.results if one.source == source]
            if not hits:
                there = ", ".join(one.source for one in found.results) or "nothing"
                raise Failed(
                    f"The text {source} was indexed, but a search for it found {there}.",
                    "Look at: variet doctor",
                )
            at = hits[0].citation
            if at.source != source or FACT not in hits[0].text:
                raise Failed(
                    f"{source} is cited as {at.source}:{at.start_line}.", "A defect: report it."
                )
        finally:
            client.delete("/ingest", source=source)
        left = SearchResponse.model_validate(client.get("/search", q=ASKED, limit=5))
        if any(one.source == source for one in left.results):
            raise Failed(f"{source} was removed, but is found still.", "A defect: report it.")
        return f"cited as [{at.n}] {source}:{at.start_line}-{at.end_line}, then removed"

    def approval(self) -> str:
        """A change waits for its owner, and once rejected does not happen."""
        client = self._client
        write = {"operation": "write", "path": FILE, "content": FACT}
        answer = client.post("/tools/execute", {"name": "file_operations", "arguments": write})
        try:
            asked = ToolPending.model_validate(answer).approval
        except ValidationError:
            client.post("/tools/execute", _file("delete"))
            raise Failed(
                "file_operations wrote a file without asking.",
                "Let it confirm: set it to `confirm` in POLICY_FILE.",
            ) from None
        self._threads.append(asked.thread_id)
        if asked.id not in [one["id"] for one in client.get("/approvals")["items"]]:
            raise Failed(f"Approval {asked.id} is not in the list.", "Try: variet approvals list")
        decision = {"decision": "reject", "comment": "the smoke test", "wait": True}
        response = ChatResponse.model_validate(client.post(f"/approvals/{asked.id}", decision))
        if asked.id in [one["id"] for one in client.get("/approvals")["items"]]:
            raise Failed(f"Approval {asked.id} is rejected, but pending still.", "Report it.")
        done = [call.status for call in response.tool_calls if call.id == asked.tool_call_id]
        if done != ["rejected"] or (self._settings.workspace / FILE).exists():
            raise Failed(f"The rejected call is {done}, or wrote {FILE}.", "A defect: report it.")
        return f"{asked.tool} waited ({asked.reason}), was rejected, and wrote nothing"

    def trace(self) -> str:
        if self._response is None:
            raise Failed("There is no run to look for: the tool flow got no answer.", "See above.")
        return find_trace(self._settings, self._response.trace_url)

    def clean_up(self) -> None:
        """Take the conversations away. Those of a check that failed stay, to be looked at."""
        for thread in self._threads:
            with suppress(VarietError):
                self._client.delete(f"/threads/{thread}")


def _brain(settings: Settings) -> str:
    if settings.openai_compat_url is None:
        raise Failed("OPENAI_COMPAT_URL is not set.", "Give the brain's address: variet init")
    secret = settings.openai_compat_key
    key = secret.get_secret_value() if secret else None
    server = Server(
        "the brain", settings.openai_compat_url, key, "OPENAI_COMPAT_URL", "OPENAI_COMPAT_KEY"
    )
    listed = server.get("/models")
    ids = [one.get("id") for one in listed.get("data", [])] if isinstance(listed, dict) else []
    if not ids:
        raise Failed(f"{server.url} lists no model.", "Run `make smoke` on the brain.")
    return f"{', '.join(map(str, ids))} at {server.url}"


def _door(url: str) -> str:
    """Who has no key is turned away; so is who has a wrong one."""
    for kind, key in (("without a key", None), ("with a wrong key", "wrong" * 8)):
        with Client(url, key) as stranger:
            try:
                stranger.get("/threads", limit=1)
            except Unauthorized:
                continue
            raise Failed(f"{url} answered a call {kind}.", "Set VARIET_API_KEY, then: make restart")
    return "401 without a key and with a wrong one"


def _map_call(response: ChatResponse) -> ToolCall:
    calls = [call for call in response.tool_calls if call.name == "get_map"]
    done = [call for call in calls if call.status == "finished" and isinstance(call.result, dict)]
    if done:
        return done[-1]
    if calls and calls[-1].error:
        raise Failed(
            f"get_map failed: {error_line(calls[-1].error)}",
            "The map of the samples has to be in MAPS_DIR: see data/samples/maps.",
        )
    others = ", ".join(call.name for call in response.tool_calls) or "no tool"
    raise Failed(
        f"The model {response.model} did not call get_map; it called {others}.", _see(response)
    )


def _cells(result: Any) -> set[tuple[int, int]]:
    cells = {(int(one["row"]), int(one["column"])) for one in result.get("anomalies", [])}
    if not cells:
        raise Failed(
            "get_map found no anomaly in boost_target.",
            "The map of the samples has two: put data/samples/maps back into MAPS_DIR.",
        )
    return cells


def _reported(response: ChatResponse) -> set[tuple[int, int]]:
    try:
        report = Report.model_validate(response.structured)
    except ValidationError as error:
        raise Failed(
            f"The structured summary is not a report: {error.error_count()} faults in"
            f" {str(response.structured)[:120]}.",
            _see(response),
        ) from error
    return {(one.row, one.column) for one in report.anomalies}


def _places(cells: set[tuple[int, int]]) -> str:
    return ", ".join(f"row {row} column {column}" for row, column in sorted(cells))


def _see(response: ChatResponse) -> str:
    return f"See: variet runs show {response.run_id}"


def _file(operation: str) -> dict[str, Any]:
    return {"name": "file_operations", "arguments": {"operation": operation, "path": FILE}}
