from pathlib import Path

import pytest

from contracts.knowledge import Chunk, SearchOp, UpsertOp
from orchestrator.knowledge.edge import EdgeStore
from orchestrator.knowledge.embedding import LocalEmbedder
from orchestrator.knowledge.index_service import IndexService

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
