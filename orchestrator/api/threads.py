"""Threads: list, history, deletion."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query

from contracts.base import Message
from contracts.chat import ThreadDetail, ThreadMessage, ThreadView
from contracts.errors import Conflict, NotFound
from orchestrator.api.page import Page, page_of
from orchestrator.api.state import Owner, Parts, Whole
from orchestrator.store.records import StoredMessage, ThreadRecord, iso

router = APIRouter(tags=["threads"])
DAY_S = 86_400


class Deleted(Message):
    deleted: int


@router.get("/threads", response_model=Page[ThreadView])
async def list_threads(
    owner: Owner,
    parts: Parts,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: str | None = None,
) -> Page[ThreadView]:
    """The caller's threads, newest first."""
    found = await parts.store.threads(owner, limit, before)
    return page_of([_view(t) for t in found], limit, lambda thread: thread.id)


@router.get("/threads/{thread_id}", response_model=ThreadDetail)
async def get_thread(thread_id: str, owner: Owner, parts: Parts) -> ThreadDetail:
    thread = await _thread(parts, thread_id, owner)
    messages = [_message(m) for m in await parts.store.messages(thread_id)]
    return ThreadDetail(**_view(thread).model_dump(), messages=messages)


@router.delete("/threads/{thread_id}", response_model=Deleted)
async def delete_thread(thread_id: str, owner: Owner, parts: Parts, whole: Whole) -> Deleted:
    """Delete a thread with its runs, events and approvals. 409 while a run lives on it."""
    await _thread(parts, thread_id, owner)
    busy = await parts.store.live_run(thread_id)
    if busy is not None:
        raise Conflict(
            "thread_busy", f"Run {busy.id} lives on thread {thread_id}.", "Stop the run first."
        )
    return Deleted(deleted=await whole.delete_threads([thread_id]))


@router.delete("/threads", response_model=Deleted)
async def prune_threads(
    owner: Owner,
    parts: Parts,
    whole: Whole,
    older_than_days: Annotated[float, Query(ge=0, le=36_500)],
) -> Deleted:
    """Delete the caller's threads that were idle for so many days."""
    idle = await parts.store.idle_threads(time.time() - older_than_days * DAY_S, owner)
    return Deleted(deleted=await whole.delete_threads(idle))


async def _thread(parts: Parts, thread_id: str, owner: str) -> ThreadRecord:
    found = await parts.store.thread(thread_id, owner)
    if found is None:
        raise NotFound("unknown_thread", f"There is no thread {thread_id!r}.", "See GET /threads.")
    return found


def _view(thread: ThreadRecord) -> ThreadView:
    return ThreadView(
        id=thread.id,
        title=thread.title,
        created_at=iso(thread.created_at),
        updated_at=iso(thread.updated_at),
    )


def _message(message: StoredMessage) -> ThreadMessage:
    body: dict[str, Any] = message.body
    return ThreadMessage(
        role=body["role"],
        content=body.get("content") or "",
        run_id=message.run_id,
        tool_calls=body.get("tool_calls"),
        tool_call_id=body.get("tool_call_id"),
    )
