"""POST /chat, and runs: state, events, stop, raw exchanges."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from contracts.chat import ApprovalOutcome, ChatRequest, ChatResponse, Exchange, RunView, StageTime
from contracts.errors import NotFound
from orchestrator.agent.turn import request_id
from orchestrator.api.body import check_value
from orchestrator.api.disconnect import while_connected
from orchestrator.api.page import Page, page_of
from orchestrator.api.sse import event_stream, last_event_id, wants_stream
from orchestrator.api.state import Owner, Parts, RunsOf
from orchestrator.store.records import RunRecord, iso

router = APIRouter(tags=["runs"])
STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {}},
        "description": "with stream: true, the run's events",
    }
}


@router.post("/chat", response_model=ChatResponse, responses=STREAM)
async def chat(body: ChatRequest, request: Request, owner: Owner, runs: RunsOf) -> Any:
    """Ask. Answers when the run rests or has ended; `status` and `error` say how it went."""
    check_value("response_schema", body.response_schema)
    run_id = await runs.submit(body, owner)
    stop = body.on_disconnect == "stop"
    if body.stream or wants_stream(request):
        return event_stream(runs, run_id, 0, stop)
    if not stop:
        return await runs.wait(run_id)
    return await while_connected(request, runs.wait(run_id), lambda: runs.stop(run_id))


@router.get("/runs", response_model=Page[RunView])
async def list_runs(
    owner: Owner,
    parts: Parts,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: str | None = None,
) -> Page[RunView]:
    """The caller's runs, newest first."""
    found = await parts.store.runs(owner, limit, before)
    return page_of([_view(r) for r in found], limit, lambda run: run.id)


@router.get("/runs/{run_id}", response_model=RunView)
async def get_run(run_id: str, owner: Owner, parts: Parts) -> RunView:
    return _view(await _run(parts, run_id, owner))


@router.get("/runs/{run_id}/events", responses=STREAM, response_class=Response)
async def run_events(
    run_id: str,
    request: Request,
    owner: Owner,
    parts: Parts,
    runs: RunsOf,
    after: Annotated[int | None, Query(ge=0, le=10**15)] = None,
) -> Response:
    """The run's events after `Last-Event-ID` (or `?after=`), until it rests or has ended."""
    await _run(parts, run_id, owner)
    return event_stream(runs, run_id, last_event_id(request, after))


@router.get("/runs/{run_id}/exchanges", response_model=Page[Exchange])
async def run_exchanges(run_id: str, owner: Owner, parts: Parts) -> Page[Exchange]:
    """Each engine call of the run, byte for byte, while it is kept (RAW_RUNS)."""
    await _run(parts, run_id, owner)
    found = await parts.store.exchanges(run_id)
    items = [
        Exchange(
            n=n,
            request_id=request_id(run_id, n),
            request=a.decode("utf-8", "replace"),
            response=b.decode("utf-8", "replace"),
            ms=ms,
        )
        for n, a, b, ms in found
    ]
    return Page(items=items)


@router.post("/runs/{run_id}/stop", response_model=ApprovalOutcome)
async def stop_run(run_id: str, owner: Owner, parts: Parts, runs: RunsOf) -> ApprovalOutcome:
    """Stop the run; the engine stops with it. A run that has ended stays as it is."""
    await _run(parts, run_id, owner)
    return ApprovalOutcome(run_id=run_id, status=await runs.stop(run_id))


async def _run(parts: Parts, run_id: str, owner: str) -> RunRecord:
    found = await parts.store.run(run_id, owner)
    if found is None:
        raise NotFound("unknown_run", f"There is no run {run_id!r}.", "See GET /runs.")
    return found


def _view(run: RunRecord) -> RunView:
    chat = run.request.get("chat") or {}
    response = ChatResponse.model_validate(run.response) if run.response else None
    return RunView(
        id=run.id,
        thread_id=run.thread_id,
        status=run.status,
        created_at=iso(run.created_at),
        updated_at=iso(run.updated_at),
        message=chat.get("message", ""),
        response=response,
        stages=[StageTime(**stage) for stage in run.progress.get("stages", [])],
    )
