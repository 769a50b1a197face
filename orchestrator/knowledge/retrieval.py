"""From a question to numbered passages that an answer can cite."""

from collections.abc import Awaitable, Callable

from contracts.chat import Citation
from contracts.knowledge import SearchResponse, SearchResult
from contracts.tools import DocChunk, DocMatches
from orchestrator.knowledge.index import Index


async def search(
    index: Index, query: str, limit: int = 5, collection: str = "docs"
) -> SearchResponse:
    """The best passages, best first, each with its citation."""
    hits = await index.search(query, limit, collection)
    return SearchResponse(
        results=[
            SearchResult(
                text=hit.text,
                source=hit.source,
                score=hit.score,
                citation=Citation(
                    n=n,
                    source=hit.source,
                    start_line=hit.start_line,
                    end_line=hit.end_line,
                    score=hit.score,
                ),
            )
            for n, hit in enumerate(hits, start=1)
        ]
    )


def match(index: Index, collection: str = "docs") -> Callable[[str, int], Awaitable[DocMatches]]:
    """The search that the tool `search_docs` takes."""

    async def search_docs(query: str, limit: int) -> DocMatches:
        hits = await index.search(query, limit, collection)
        return DocMatches(
            results=[DocChunk(n=n, **hit.model_dump()) for n, hit in enumerate(hits, start=1)]
        )

    return search_docs
