"""Health, readiness, metrics."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from contracts.chat import Check, Health
from contracts.errors import StoreUnavailable, VarietError
from orchestrator import metrics as counted
from orchestrator.api.state import Owner, Whole
from orchestrator.assembly import Orchestrator

router = APIRouter(tags=["health"])
PROBE_TIMEOUT_S = 1.5
# Shorter, so that it is the index that says what is silent.
STORE_PROBE_S = 1.0
DOWN: dict[int | str, dict[str, Any]] = {503: {"model": Health, "description": "cannot serve"}}
PLAIN: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}}}


@router.get("/health", response_model=Health, responses=DOWN)
async def health(request: Request, response: Response, whole: Whole) -> Health:
    """State of each part; 503 when nothing can be served, which is when the store is gone.
    Callers without a key learn the overall status only."""
    engine, index, store = await asyncio.gather(_engine(whole), _index(whole), _store(whole))
    checks = {
        "engine": engine,
        "tools": _tools(whole),
        "policy": _policy(whole),
        "index": index,
        "store": store,
        "traces": _traces(whole),
    }
    status = "ok" if all(c.status in ("ok", "off") for c in checks.values()) else "degraded"
    if store.status == "down":
        status = "down"
        response.status_code = 503
    if request.state.owner is None:
        checks = {}
    return Health.model_validate({"status": status, "checks": checks})


@router.get("/ready", response_model=Health, responses=DOWN)
async def ready(request: Request, response: Response, whole: Whole) -> Health:
    """200 once the start is done: stores recovered, tools listed, the engine asked once."""
    if whole.ready.is_set():
        return Health(status="ok", checks={})
    response.status_code = 503
    starting = Check(status="down", detail="starting", remedy="Ask again in a few seconds.")
    return Health(status="down", checks={} if request.state.owner is None else {"start": starting})


@router.get("/metrics", response_class=Response, responses=PLAIN)
async def metrics(owner: Owner, whole: Whole) -> Response:
    counted.LIVE_RUNS.set(whole.runs.active)
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


async def _engine(whole: Orchestrator) -> Check:
    engine = whole.engine
    headers = {"authorization": f"Bearer {engine.key}"} if engine.key else {}
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            answer = await whole.http.get(f"{engine.url}/models", headers=headers)
    except Exception as error:  # boundary: whatever keeps the probe from answering is its result
        return Check(
            status="down",
            detail=f"{engine.url} does not answer ({type(error).__name__})",
            remedy="Start the engine, or correct OPENAI_COMPAT_URL.",
        )
    if answer.status_code != 200:
        return Check(
            status="down",
            detail=f"{engine.url} answers HTTP {answer.status_code}",
            remedy="Check OPENAI_COMPAT_KEY and the engine's log.",
        )
    return Check(status="ok", detail=f"{engine.model} at {engine.url}, {engine.context} tokens")


def _tools(whole: Orchestrator) -> Check:
    box = whole.toolbox
    detail = f"{len(box.tools)} tools"
    if whole.withheld:
        detail += f"; not offered to this model: {', '.join(whole.withheld)}"
    problems = [f"{name} is down: {why}" for name, why in box.down.items()]
    problems += [f"{name} is not used: {why}" for name, why in box.refused.items()]
    if not problems:
        return Check(status="ok", detail=detail)
    return Check(
        status="degraded",
        detail="; ".join([detail, *problems]),
        remedy="Start or correct the tool servers named here.",
    )


def _policy(whole: Orchestrator) -> Check:
    if whole.settings.policy_file is None:
        return Check(status="off", detail="no POLICY_FILE: what a tool says of itself counts")
    unmatched = whole.parts.policy.unmatched(whole.toolbox.tools)
    if not unmatched:
        return Check(status="ok", detail="each rule is about a tool that is there")
    return Check(
        status="degraded",
        detail=f"rules for tools that are not there: {', '.join(unmatched)}",
        remedy="Correct the names in POLICY_FILE; GET /tools/schemas lists the tools.",
    )


async def _index(whole: Orchestrator) -> Check:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            stats = await whole.index.stats(STORE_PROBE_S)
    except TimeoutError:
        return Check(
            status="down",
            detail=f"the index did not answer within {PROBE_TIMEOUT_S:g} s",
            remedy="If it stays so, restart the orchestrator.",
        )
    except VarietError as error:
        return Check(status="down", detail=error.message, remedy=error.remedy)
    if stats.error is not None:
        if stats.search == "words":
            detail = f"searching by words alone: {stats.error.message}"
            return Check(status="degraded", detail=detail, remedy=stats.error.remedy)
        return Check(status="down", detail=stats.error.message, remedy=stats.error.remedy)
    chunks = sum(c.chunks for c in stats.collections.values())
    return Check(status="ok", detail=f"{chunks} chunks, {stats.model}")


async def _store(whole: Orchestrator) -> Check:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await whole.store.run("run_probe")
            await whole.parts.journal.approval("appr_probe")
    except TimeoutError:
        return Check(
            status="down",
            detail=f"the store does not answer within {PROBE_TIMEOUT_S:g} s",
            remedy="Start PostgreSQL; DATABASE_URL says where it should be.",
        )
    except StoreUnavailable as error:
        return Check(status="down", detail=error.message, remedy=error.remedy)
    except Exception as error:  # boundary: whatever keeps the probe from answering is its result
        return Check(
            status="down",
            detail=f"{whole.settings.state_dir} cannot be read ({error})",
            remedy="Check the disk, then restart the orchestrator.",
        )
    return Check(status="ok", detail=f"{whole.runs.active} runs are live")


def _traces(whole: Orchestrator) -> Check:
    if not whole.settings.langfuse_enabled:
        return Check(status="off", detail="run records only; no Langfuse keys are set")
    return Check(status="ok", detail=f"sent to {whole.settings.langfuse_base_url}")
