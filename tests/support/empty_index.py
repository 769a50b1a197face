"""An index that is up and holds nothing; for tests of what is in front of it."""

from collections.abc import Sequence
from typing import Any

from contracts.knowledge import IndexStats


class EmptyIndex:
    async def upsert(self, collection: str, chunks: Sequence[Any]) -> int:
        return 0

    async def delete(self, collection: str, source: str, keep: str | None = None) -> None:
        pass

    async def sources(self, collection: str, prefix: str = "") -> dict[str, list[str]]:
        return {}

    async def search(self, query: str, limit: int = 5, collection: str = "docs") -> list[Any]:
        return []

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Two numbers a text, the first one its length."""
        return [[float(len(text)), 0.5] for text in texts]

    async def stats(self, within: float = 0) -> IndexStats:
        return IndexStats(ready=True, model="counting", dimension=2)

    async def rebuild(self, collection: str) -> int:
        return 0
