"""What the index process needs of a vector store, and what its two stores have in common.

Both rank with the same engine: `edge` is Qdrant in this process, on files, `qdrant` asks a
Qdrant server. Neither embeds.
"""

import uuid
from collections import Counter
from collections.abc import Iterable
from typing import Any, Protocol

from contracts.errors import Conflict
from contracts.knowledge import Chunk, CollectionStats, Hit
from orchestrator.knowledge.minilm import Floats

HITS_PER_SOURCE = 3
RRF_K = 2
# Weights of the dense and the BM25 ranking. On questions about code BM25 is the weaker judge
# (CoSQA, MRR 0.538 with [1, 0.25], 0.487 with equal weights); on prose it is the stronger one
# (SciFact, nDCG@10 0.718 fused, 0.624 dense, 0.689 BM25).
FUSION_WEIGHTS = {"code": [1.0, 0.25]}
DEFAULT_WEIGHTS = [1.0, 1.0]
# The payload fields that are indexed; "text" with the code tokenizer, which splits identifiers:
# a question for "boost target" finds boost_target.
SOURCE, DIGEST, PART, TEXT = "source", "digest", "part", "text"
DENSE = "dense"

_CANDIDATES = 50
_NAMESPACE = uuid.UUID("6d2a2f3e-6f57-4d0b-9a51-6d3f3c0b8b1e")


class Collection(Protocol):
    """Chunks with their vectors. Built with one model; vectors of another have no place in it."""

    name: str
    model: str
    dimension: int

    async def upsert(self, chunks: list[Chunk], vectors: Floats) -> None:
        """Write chunks with their vectors [len(chunks), dimension]; the same chunk again is a
        no-op. Durable once it returns."""
        ...

    async def delete(self, source: str, keep: str | None = None) -> None:
        """Remove a source's chunks, except those of the version `keep`."""
        ...

    async def sources(self, prefix: str) -> dict[str, list[str]]:
        """Sources that start with `prefix`, with the digests of their complete versions. A
        writer stores part 0 last, so a version that has it is complete."""
        ...

    async def search(self, text: str, vector: Floats | None, limit: int) -> list[Hit]:
        """The best passages for a question: dense and BM25 rankings fused by weighted RRF, at
        most HITS_PER_SOURCE of one source. `vector` has shape [dimension]; without it BM25 ranks
        alone."""
        ...

    async def page(self, offset: Any, size: int) -> tuple[list[Chunk], Any]:
        """Some stored chunks, and the offset of the next page or None."""
        ...

    async def count(self) -> int: ...


class VectorStore(Protocol):
    """Named collections that outlive the process. Its first use finishes or undoes what a crash
    interrupted. Each operation raises Unavailable while the store is down."""

    async def find(self, name: str) -> Collection | None: ...

    async def create(self, name: str, model: str, dimension: int) -> Collection:
        """Make an empty collection."""
        ...

    async def begin(self, name: str, model: str, dimension: int) -> Collection:
        """Make an empty collection beside the one of this name, found by nobody until
        `replace`."""
        ...

    async def replace(self, name: str, new: Collection) -> None:
        """Let the collection that `begin` made take the place of the old one, which goes."""
        ...

    async def stats(self, within: float) -> dict[str, CollectionStats]:
        """All collections by name, as the store has them now. Raises Unavailable if it takes
        more than `within` seconds."""
        ...

    async def close(self) -> None: ...


def check(collection: Collection, model: str, dimension: int) -> None:
    """Refuse vectors of another model than the collection's. Raises Conflict."""
    if (model, dimension) == (collection.model, collection.dimension):
        return
    raise Conflict(
        "embedding_model_changed",
        f"The collection {collection.name} was built with {collection.model}"
        f" ({collection.dimension} dimensions), EMBED_MODEL={model} has {dimension}.",
        f"Run `variet ingest --rebuild --collection {collection.name}`, or set the former model"
        " again.",
    )


def weights(name: str) -> list[float]:
    """Of the dense and the BM25 ranking, in this collection."""
    return FUSION_WEIGHTS.get(name, DEFAULT_WEIGHTS)


def candidates(limit: int) -> int:
    """How many of each ranking are fused, so that `limit` remain after the cap per source."""
    return max(_CANDIDATES, limit * HITS_PER_SOURCE)


def hits(ranked: Iterable[Any], limit: int) -> list[Hit]:
    """The first `limit` of the scored points, at most HITS_PER_SOURCE of one source."""
    found: list[Hit] = []
    of_source: Counter[str] = Counter()
    for point in ranked:
        payload = point.payload or {}
        of_source[payload[SOURCE]] += 1
        if of_source[payload[SOURCE]] > HITS_PER_SOURCE:
            continue
        found.append(
            Hit(
                source=payload[SOURCE],
                start_line=payload["start_line"],
                end_line=payload["end_line"],
                text=payload[TEXT],
                score=round(point.score, 4),
            )
        )
        if len(found) == limit:
            break
    return found


def point_id(chunk: Chunk) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{chunk.source}\0{chunk.digest}\0{chunk.part}"))
