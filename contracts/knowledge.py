"""Requests and answers of the knowledge routes, and the wire of the index process.

The wire: over a Unix socket, one JSON request on one line, one JSON answer on one line, then
the connection closes. The answer is `{"result": ...}` or the error envelope.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, RootModel, model_validator

from contracts.base import Message
from contracts.chat import Citation
from contracts.errors import ErrorBody

JobStatus = Literal["queued", "running", "done", "failed"]
CollectionName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


class IngestRequest(Message):
    """What to index: a file or directory by `path`, a `text` under a name, or, with `rebuild`,
    what the collection already holds, embedded anew with the model of now."""

    path: str | None = Field(None, min_length=1, description="file or directory")
    text: str | None = Field(None, min_length=1, max_length=5_000_000)
    source: str | None = Field(
        None, min_length=1, max_length=512, description="name of `text` in citations"
    )
    collection: CollectionName = "docs"
    rebuild: bool = False

    @model_validator(mode="after")
    def _exactly_one(self) -> "IngestRequest":
        if [self.path is not None, self.text is not None, self.rebuild].count(True) != 1:
            raise ValueError("exactly one of path, text and rebuild has to be given")
        if self.source is not None and self.text is None:
            raise ValueError("source names a text; a path is its own source")
        return self


class IngestAccepted(Message):
    job_id: str


class IngestJob(Message):
    """One job. `files` counts those indexed by it, `skipped` the unchanged ones, `removed` those
    that the index held and the disk no longer has; `chunks` were written. Times: ISO 8601, UTC."""

    job_id: str
    status: JobStatus
    collection: str
    source: str
    files: int = 0
    chunks: int = 0
    skipped: int = 0
    removed: int = 0
    errors: list[ErrorBody] = []
    attempts: int = 0
    created_at: str
    updated_at: str


class Chunk(Message):
    """A passage of a source. `digest` is the SHA-256 of the whole source; `part` counts from 0;
    lines count from 1, inclusive."""

    source: str
    digest: str
    part: int
    start_line: int
    end_line: int
    text: str


class Hit(Message):
    """A retrieved passage. `score` is the fused rank score: above 0, at most 1 per ranking."""

    source: str
    start_line: int
    end_line: int
    text: str
    score: float


class SearchResult(Message):
    text: str
    source: str
    score: float
    citation: Citation


class SearchResponse(Message):
    results: list[SearchResult]


class CollectionStats(Message):
    chunks: int
    model: str
    dimension: int


class IndexStats(Message):
    """State of the index. `ready` while documents can be taken in, which needs the store and the
    embedding model; else `error` says why not. `search`: by meaning and words, by words alone
    because no embeddings are to be had, or not at all."""

    ready: bool
    search: Literal["hybrid", "words", "none"] = "hybrid"
    model: str
    dimension: int | None = None
    error: ErrorBody | None = None
    collections: dict[str, CollectionStats] = {}


class UpsertOp(Message):
    op: Literal["upsert"] = "upsert"
    collection: CollectionName
    chunks: list[Chunk]


class DeleteOp(Message):
    """Remove a source's chunks, except those of the version `keep`."""

    op: Literal["delete"] = "delete"
    collection: CollectionName
    source: str
    keep: str | None = None


class SourcesOp(Message):
    """Complete sources whose name starts with `prefix`: name to the digests that are there."""

    op: Literal["sources"] = "sources"
    collection: CollectionName
    prefix: str = ""


class SearchOp(Message):
    op: Literal["search"] = "search"
    collection: CollectionName
    query: str = Field(min_length=1, max_length=10_000)
    limit: int = Field(ge=1, le=100)


class EmbedOp(Message):
    op: Literal["embed"] = "embed"
    texts: list[str] = Field(max_length=2_048)


class StatsOp(Message):
    """A store that has not answered `within` seconds counts as down."""

    op: Literal["stats"] = "stats"
    within: float = Field(10, gt=0)


class RebuildOp(Message):
    op: Literal["rebuild"] = "rebuild"
    collection: CollectionName


IndexOp = Annotated[
    UpsertOp | DeleteOp | SourcesOp | SearchOp | EmbedOp | StatsOp | RebuildOp,
    Field(discriminator="op"),
]


class IndexRequest(RootModel[IndexOp]):
    """One line to the index process."""


class IndexAnswer(Message):
    """One line from the index process: a result, or an error with its class name as `kind`."""

    result: Any = None
    error: ErrorBody | None = None
    kind: str | None = None
