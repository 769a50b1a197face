"""Every operation of the OpenAPI document, called with what it allows and what it does not."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import checks as of

from contracts.settings import Settings
from orchestrator.agent.model import Engine
from orchestrator.api.app import create_app
from orchestrator.assembly import Orchestrator
from tests.support.empty_index import EmptyIndex
from tests.support.hands import hands
from tests.support.probe_tools import Probe
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripted_reply import script

EXAMPLES = 25


@dataclass
class Server:
    url: str
    known: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server in a thread of its own, because the callers here are not asynchronous. `known` are
    ids of things that are there."""
    state = tmp_path_factory.mktemp("state")
    found: Future[Server] = Future()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with (
            ScriptedEngine() as engine,
            hands(engine.url, state, Probe().server, index=EmptyIndex()) as variet,
        ):
            change = {"tool_calls": [{"name": "change", "arguments": {"text": "x"}}]}
            asked = await variet.ask(script(change, {"text": "Done."}))
            job = await variet.client.post("/ingest", json={"text": "x", "source": "x"})
            known = {
                "run_id": asked["run_id"],
                "thread_id": asked["thread_id"],
                "approval_id": asked["approvals"][0]["id"],
                "job_id": job.json()["job_id"],
                "name": "variet",
            }
            found.set_result(Server(variet.url, known))
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    yield found.result(20)
    loop.call_soon_threadsafe(stop.set)
    thread.join(20)
    loop.close()


def document() -> dict[str, Any]:
    """The OpenAPI document, of an orchestrator that was never started."""
    made = Settings(_env_file=None, openai_compat_url="http://127.0.0.1:9/v1")
    engine = Engine(url="http://127.0.0.1:9/v1", key="", model="scripted", context=8_192)
    return create_app(Orchestrator(made, engine)).openapi()


schema = schemathesis.openapi.from_dict(document())


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_no_call_makes_a_server_error_and_every_answer_is_as_declared(
    case: Any, server: Server
) -> None:
    check(case, server)
    if pointed_at_something(case, server):
        check(case, server)


def check(case: Any, server: Server) -> None:
    case.call_and_validate(
        base_url=server.url,
        checks=[
            of.not_a_server_error,
            of.status_code_conformance,
            of.content_type_conformance,
            of.response_schema_conformance,
            of.response_headers_conformance,
            of.unsupported_method,
        ],
    )


def pointed_at_something(case: Any, server: Server) -> bool:
    """Make a call about something that is there, since made-up ids seldom are. Says if it was."""
    if case.path_parameters:
        case.path_parameters = {key: server.known[key] for key in case.path_parameters}
        return True
    if isinstance(case.body, dict) and case.path in BODIES:
        case.body = case.body | BODIES[case.path]
        return True
    return False


BODIES: dict[str, dict[str, Any]] = {
    "/tools/execute": {"name": "look"},
    "/v1/chat/completions": {"model": "variet"},
    "/v1/embeddings": {"model": "x"},
}
