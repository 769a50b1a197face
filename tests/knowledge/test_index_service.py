from pathlib import Path

import numpy as np
import pytest

from contracts.errors import EngineError, Unavailable, VarietError
from contracts.knowledge import Chunk, SearchOp, StatsOp, UpsertOp
from orchestrator.knowledge.edge import EdgeStore
from orchestrator.knowledge.embedding import LocalEmbedder
from orchestrator.knowledge.index_service import IndexService
from orchestrator.knowledge.minilm import Floats

CHUNK = Chunk(source="a", digest="1", part=0, start_line=1, end_line=1, text="boost")


async def leave_rebuild(folder: Path, state: str) -> None:
    """A collection with one chunk, as a rebuild leaves it that is interrupted in `state`."""
    service = IndexService(EdgeStore(folder), LocalEmbedder(threads=1))
    await service.answer(UpsertOp(collection="docs", chunks=[CHUNK]))
    await service.close()
    (folder / "docs.new").mkdir()
    if state == "before the swap":
        return
    (folder / "docs").rename(folder / "docs.old")
    if state == "swapped":
        (folder / "docs.old/shard").rename(folder / "docs.new/shard")
        (folder / "docs.old/collection.json").rename(folder / "docs.new/collection.json")
        (folder / "docs.new").rename(folder / "docs")


@pytest.mark.parametrize("state", ["before the swap", "in the swap", "swapped"])
async def test_a_rebuild_that_a_crash_interrupted_loses_nothing(tmp_path: Path, state: str) -> None:
    await leave_rebuild(tmp_path, state)
    service = IndexService(EdgeStore(tmp_path), LocalEmbedder(threads=1))
    await service.warm()
    [hit] = await service.answer(SearchOp(collection="docs", query="boost", limit=1))
    assert hit["source"] == "a"
    assert [path.name for path in tmp_path.iterdir()] == ["docs"]  # noqa: ASYNC240
    await service.close()


async def test_an_unfinished_collection_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "docs/shard/segments").mkdir(parents=True)
    service = IndexService(EdgeStore(tmp_path), LocalEmbedder(threads=1))
    await service.warm()
    assert await service.answer(UpsertOp(collection="docs", chunks=[CHUNK])) == 1
    await service.close()


class Failing:
    """An embedder that says when it is asked."""

    model = "some-model"

    def __init__(self) -> None:
        self.asked = 0
        self.fails: VarietError | None = None
        self.fails_at = ""

    async def embed(self, texts: list[str], bulk: bool = False) -> Floats:
        self.asked += 1
        if self.fails and any(self.fails_at in text for text in texts):
            raise self.fails
        return np.ones((len(texts), 4), np.float32)

    async def close(self) -> None:
        pass


async def test_an_embedder_that_fell_silent_is_logged_once_and_costs_no_further_question_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    embedder = Failing()
    service = IndexService(EdgeStore(tmp_path), embedder)
    await service.answer(UpsertOp(collection="docs", chunks=[CHUNK]))
    embedder.fails = Unavailable("embeddings_unavailable", "It is down.", "Start it.")
    before = embedder.asked
    for _ in range(5):
        assert await service.answer(SearchOp(collection="docs", query="boost", limit=1))
    assert embedder.asked == before + 1
    assert [record.getMessage() for record in caplog.records] == [
        "no embeddings, searching by words alone: It is down. Start it."
    ]
    await service.close()


async def test_a_text_that_the_embedder_refuses_does_not_make_it_a_silent_one(
    tmp_path: Path,
) -> None:
    embedder = Failing()
    embedder.fails = EngineError("embeddings_failed", "It is too long.", "Cut it.")
    embedder.fails_at = "boost"
    service = IndexService(EdgeStore(tmp_path), embedder)
    with pytest.raises(EngineError):
        await service.answer(UpsertOp(collection="docs", chunks=[CHUNK]))
    stats = await service.answer(StatsOp())
    assert (stats["ready"], stats["search"]) == (True, "hybrid")
    await service.close()
