"""Ingestion and search."""

from typing import Annotated

from fastapi import APIRouter, Query

from contracts.base import Message
from contracts.knowledge import (
    CollectionName,
    IngestAccepted,
    IngestJob,
    IngestRequest,
    SearchResponse,
)
from orchestrator.api.state import Owner, Whole
from orchestrator.knowledge.retrieval import search as find

router = APIRouter(tags=["knowledge"])


class Removed(Message):
    removed: int


@router.post("/ingest", status_code=202, response_model=IngestAccepted)
async def ingest(body: IngestRequest, owner: Owner, whole: Whole) -> IngestAccepted:
    """Queue a file, a folder or a text for indexing."""
    return IngestAccepted(job_id=await whole.ingest.submit(body))


@router.delete("/ingest", response_model=Removed)
async def remove(
    source: Annotated[str, Query(min_length=1, max_length=2_000)],
    owner: Owner,
    whole: Whole,
    collection: CollectionName = "docs",
) -> Removed:
    """Take one source out of the index, named as citations name it. Its file stays, and comes
    back when its folder is indexed again."""
    held = await whole.index.sources(collection, source)
    await whole.index.delete(collection, source)
    return Removed(removed=int(source in held))


@router.get("/ingest/jobs/{job_id}", response_model=IngestJob)
async def job(job_id: str, owner: Owner, whole: Whole) -> IngestJob:
    return await whole.ingest.job(job_id)


@router.get("/search", response_model=SearchResponse)
async def search(
    q: Annotated[str, Query(min_length=1, max_length=2_000)],
    owner: Owner,
    whole: Whole,
    limit: Annotated[int, Query(ge=1, le=50)] = 5,
    collection: CollectionName = "docs",
) -> SearchResponse:
    """Passages that fit a question, best first."""
    return await find(whole.index, q, limit, collection)
