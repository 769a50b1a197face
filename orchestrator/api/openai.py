"""The OpenAI-compatible surface: model `variet` is the agent, tier names go to the engine."""

import base64
from array import array
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Body, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import ValidationError

from contracts.chat import ApprovalDecision, ChatRequest, ChatResponse
from contracts.errors import BadRequest, NotFound, VarietError
from orchestrator.agent import messages as wire
from orchestrator.agent.log import LoggedEvent
from orchestrator.api import openai_text as text
from orchestrator.api.body import check_value
from orchestrator.api.disconnect import while_connected
from orchestrator.api.errors import shown
from orchestrator.api.openai_forms import (
    Completion,
    Embeddings,
    InMessage,
    ModelCard,
    ModelList,
    inlined,
    schema_of,
)
from orchestrator.api.passage import pass_through
from orchestrator.api.sse import HEADERS, KEEPALIVE, watched
from orchestrator.api.state import Owner, Whole
from orchestrator.assembly import Orchestrator
from orchestrator.engine import TIERS

router = APIRouter(prefix="/v1", tags=["openai"])
AGENT = "variet"
SYSTEM = ("system", "developer")
ENGINE_STATUS = {"engine_unreachable": 503, "engine_timeout": 504, "context_overflow": 400}
COMPLETION: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"application/json": {}, "text/event-stream": {}},
        "description": "a chat completion, or its chunks with stream: true",
    }
}

# The body is read as it came, since it may go on to the engine so; this is its form for the agent.
ASKED: dict[str, Any] = {"schema": inlined(Completion.model_json_schema())}


@router.get("/models", response_model=ModelList)
async def models(owner: Owner, whole: Whole) -> ModelList:
    """`variet`, which is the agent, and the tiers."""
    return ModelList(data=[_card(whole, name) for name in (AGENT, *TIERS)])


@router.get("/models/{name}", response_model=ModelCard)
async def model(name: str, owner: Owner, whole: Whole) -> ModelCard:
    if name not in (AGENT, *TIERS):
        raise _unknown_model(name)
    return _card(whole, name)


@router.post(
    "/chat/completions",
    response_class=Response,
    responses=COMPLETION,
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": ASKED}}},
)
async def completions(
    request: Request, owner: Owner, whole: Whole, body: Annotated[dict[str, Any], Body()]
) -> Response:
    """The agent for model `variet`; for a tier, the engine's own answer, byte for byte. The agent
    uses its own tools and sampling: `tools`, `temperature` and their like are not for it."""
    name = body.get("model")
    if isinstance(name, str) and (name in TIERS or name == whole.engine.model):
        return await pass_through(whole, request, name, body)
    if name != AGENT:
        raise _unknown_model(name)
    asked = _parsed(body)
    schema = schema_of(asked.response_format)
    check_value("response_format", schema)
    run_id, after = await _begin(whole, asked, schema, owner)
    reply = text.Reply(run_id, structured=schema is not None)
    if asked.stream:
        usage = bool(asked.stream_options and asked.stream_options.include_usage)
        events = watched(whole.runs, run_id, after, stop_on_disconnect=True)
        return StreamingResponse(
            _chunks(reply, events, usage), media_type="text/event-stream", headers=HEADERS
        )
    response = await while_connected(
        request, _collect(whole, run_id, after, reply), lambda: whole.runs.stop(run_id)
    )
    if response is None:
        return Response(status_code=499)
    _raise_failure(response)
    return Response(orjson.dumps(reply.whole(response)), media_type="application/json")


@router.post("/embeddings")
async def embeddings(body: Embeddings, owner: Owner, whole: Whole) -> dict[str, Any]:
    """Embeddings of the knowledge's own model, whichever was asked for; `model` says which."""
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not texts or not all(texts):
        raise BadRequest("bad_input", "input is empty.", "Send at least one non-empty text.")
    vectors = await whole.index.embed(texts)
    if body.dimensions is not None and body.dimensions != len(vectors[0]):
        raise BadRequest(
            "bad_dimensions",
            f"dimensions={body.dimensions}: {whole.settings.embed_model} has {len(vectors[0])}.",
            "Leave it out.",
        )
    tokens = sum(len(t) for t in texts) // 4
    packed = body.encoding_format == "base64"
    return {
        "object": "list",
        "model": whole.settings.embed_model,
        "data": [
            {"object": "embedding", "index": i, "embedding": _base64(v) if packed else v}
            for i, v in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


async def _begin(
    whole: Orchestrator, asked: Completion, schema: dict[str, Any] | None, owner: str
) -> tuple[str, int]:
    """Start or continue a run: its id, and the event to read on from."""
    last = asked.messages[-1]
    if last.role != "user":
        raise BadRequest(
            "last_message", f"The last message's role is {last.role!r}.", "End with a user message."
        )
    if decision := text.decision_of(last.text()):
        return await _decide(whole, decision, owner)
    thread_id = asked.metadata.thread_id if asked.metadata else None
    message, history = (last.text(), []) if thread_id else _imported(asked.messages)
    try:
        request = ChatRequest(
            message=message, thread_id=thread_id, on_disconnect="stop", response_schema=schema
        )
    except ValidationError as error:
        raise _invalid(error, f"messages.{len(asked.messages) - 1}") from error
    return await whole.runs.submit(request, owner, history), 0


async def _decide(
    whole: Orchestrator, decision: tuple[Literal["approve", "reject"], str], owner: str
) -> tuple[str, int]:
    verb, approval_id = decision
    approval = await whole.parts.journal.approval(approval_id, owner)
    after = await whole.parts.store.last_event(approval.run_id) if approval else 0
    outcome = await whole.approvals.decide(approval_id, owner, ApprovalDecision(decision=verb))
    return outcome.run_id, after


def _imported(messages: list[InMessage]) -> tuple[str, list[dict[str, Any]]]:
    """The message to ask, and the history that a new thread begins with. Instructions go in front
    of the first message, since the system prompt is the orchestrator's; a client's own tool calls
    and their results are not ours to repeat."""
    form = {"user": wire.user, "assistant": wire.assistant}
    message = messages[-1].text()
    earlier = [m for m in messages[:-1] if m.role in form and m.text()]
    instructions = [m.text() for m in messages if m.role in SYSTEM and m.text()]
    history = [form[m.role](m.text()) for m in earlier]
    first = next((body for body in history if body["role"] == "user"), None)
    if first is None:
        return "\n\n".join([*instructions, message]), history
    first["content"] = "\n\n".join([*instructions, first["content"]])
    return message, history


async def _collect(whole: Orchestrator, run_id: str, after: int, reply: text.Reply) -> ChatResponse:
    async for event in whole.runs.follow(run_id, after):
        if event is not None:
            reply.take(event)
    return await whole.runs.wait(run_id)


async def _chunks(
    reply: text.Reply, events: AsyncGenerator[LoggedEvent | None, None], usage: bool
) -> AsyncIterator[bytes]:
    async with aclosing(events):
        async for chunk in reply.stream(events, usage):
            yield KEEPALIVE if chunk is None else chunk


def _parsed(body: dict[str, Any]) -> Completion:
    try:
        return Completion.model_validate(body)
    except ValidationError as error:
        raise _invalid(error) from error


def _invalid(error: ValidationError, under: str = "") -> BadRequest:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in ([under] if under else []) + list(problem["loc"]))
    message = problem["msg"].removeprefix("Value error, ")
    return BadRequest("invalid_request", f"{where}: {message}.", "Correct the request.")


def _raise_failure(response: ChatResponse) -> None:
    if response.status != "failed" or response.error is None:
        return
    error = response.error
    failure = VarietError(error.code, error.message, error.remedy)
    failure.status = ENGINE_STATUS.get(error.code, 502)
    raise failure


def _unknown_model(name: Any) -> NotFound:
    return NotFound(
        "model_not_found", f"model={shown(name)} is not known.", f"Use {AGENT}, {', '.join(TIERS)}."
    )


def _card(whole: Orchestrator, name: str) -> ModelCard:
    return ModelCard(id=name, created=int(whole.started))


def _base64(vector: list[float]) -> str:
    return base64.b64encode(array("f", vector).tobytes()).decode()
