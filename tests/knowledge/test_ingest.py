import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from contracts.errors import Forbidden, NotFound
from contracts.knowledge import Chunk, IngestJob, IngestRequest
from orchestrator.knowledge.index import IndexClient
from orchestrator.knowledge.ingest import Ingest
from orchestrator.knowledge.retrieval import match, search
from tests.knowledge.conftest import Launch
from tests.knowledge.embeddings_server import EmbeddingsServer
from tests.knowledge.qdrant_server import QdrantServer

Do = Callable[..., Awaitable[IngestJob]]


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    folder = tmp_path / "samples"
    folder.mkdir()
    (folder / "guide.md").write_text("# Boost\n\nThe limit is 210 kPa.\n\n# Idle\n\n850 rpm.\n")
    (folder / "faults.csv").write_text("code,meaning\nP0234,overboost\nP0299,underboost\n")
    return folder


@pytest.fixture
def collection(request: pytest.FixtureRequest) -> str:
    return str(request.node.name).partition("[")[0].replace("_", "-")[-60:].strip("-")


@pytest.fixture
async def ingest(index: IndexClient, samples: Path, tmp_path: Path) -> AsyncIterator[Ingest]:
    lane = Ingest(index, tmp_path / "ingest.db", [samples])
    lane.start()
    yield lane
    await lane.close()


@pytest.fixture
def do(ingest: Ingest, collection: str) -> Do:
    async def work(**request: object) -> IngestJob:
        asked = IngestRequest.model_validate({"collection": collection, **request})
        job_id = await ingest.submit(asked)
        await ingest.drain()
        return await ingest.job(job_id)

    return work


async def test_a_folder_is_indexed_and_its_passages_cited(
    do: Do, index: IndexClient, collection: str
) -> None:
    job = await do(path="samples")
    assert (job.status, job.files, job.chunks, job.errors) == ("done", 2, 3, [])
    assert (job.source, job.collection, job.attempts) == ("samples", collection, 1)
    [best, *_] = (await search(index, "boost limit", 3, collection)).results
    assert best.source == best.citation.source == "samples/guide.md"
    assert (best.citation.n, best.citation.start_line, best.citation.end_line) == (1, 3, 3)
    assert best.text == "# Boost\nThe limit is 210 kPa."
    [match_, *_] = (await match(index, collection)("P0299", 2)).results
    assert (match_.n, match_.source) == (1, "samples/faults.csv")


async def test_unchanged_sources_are_skipped_changed_ones_replaced_and_gone_ones_removed(
    do: Do, index: IndexClient, collection: str, samples: Path
) -> None:
    await do(path="samples")
    again = await do(path="samples")
    assert (again.files, again.skipped, again.chunks, again.removed) == (0, 2, 0, 0)

    guide, faults = samples / "guide.md", samples / "faults.csv"
    guide.write_text("# Boost\n\nThe limit is 190 kPa.\n")
    faults.unlink()
    changed = await do(path="samples")
    assert (changed.files, changed.skipped, changed.chunks, changed.removed) == (1, 0, 1, 1)
    assert (await index.stats()).collections[collection].chunks == 1
    [hit] = await index.search("boost limit", 5, collection)
    assert "190 kPa" in hit.text

    guide.write_text("")
    emptied = await do(path="guide.md")
    assert emptied.status == "done"
    assert await index.sources(collection) == {}


async def test_a_version_left_half_written_by_a_crash_is_completed(
    do: Do, index: IndexClient, collection: str
) -> None:
    await do(path="samples")
    [digest] = (await index.sources(collection))["samples/guide.md"]
    await index.delete(collection, "samples/guide.md")
    tail = Chunk(
        source="samples/guide.md", digest=digest, part=1, start_line=7, end_line=7, text="850 rpm."
    )
    await index.upsert(collection, [tail])
    job = await do(path="samples")
    assert (job.files, job.skipped, job.chunks) == (1, 1, 2)


async def test_a_text_is_indexed_under_its_name_and_replaced_by_it(
    do: Do, index: IndexClient, collection: str
) -> None:
    first = await do(text="The wastegate opens at 180 kPa.", source="note")
    assert (first.status, first.source, first.chunks) == ("done", "text:note", 1)
    await do(text="The wastegate opens at 175 kPa.", source="note")
    [hit] = await index.search("wastegate", 5, collection)
    assert (hit.source, "175" in hit.text) == ("text:note", True)


async def test_a_bad_file_fails_alone_and_the_rest_of_its_folder_is_indexed(
    do: Do, samples: Path
) -> None:
    (samples / "bad.txt").write_bytes(b"\0\1\2")
    folder = await do(path="samples")
    assert (folder.status, folder.files) == ("done", 2)
    assert [error.code for error in folder.errors] == ["unreadable_file"]
    alone = await do(path="bad.txt")
    assert (alone.status, alone.attempts) == ("failed", 1)
    assert "bad.txt" in alone.errors[0].message


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
async def test_a_file_whose_name_is_no_text_fails_alone(do: Do, samples: Path) -> None:
    (samples / "\udcff.md").write_text("A name in Latin-1.")
    folder = await do(path="samples")
    assert (folder.status, folder.files) == ("done", 2)
    assert [error.message for error in folder.errors] == [
        "\ufffd.md was not read: its path is not UTF-8."
    ]


async def test_paths_outside_of_the_roots_are_refused_at_once(ingest: Ingest) -> None:
    with pytest.raises(Forbidden):
        await ingest.submit(IngestRequest(path="/etc/passwd"))
    with pytest.raises(NotFound):
        await ingest.submit(IngestRequest(path="nothing.md"))
    with pytest.raises(NotFound):
        await ingest.job("nothing")


async def test_a_link_that_took_a_folders_place_while_the_job_waited_is_not_followed(
    index: IndexClient, samples: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.md").write_text("a secret")
    (samples / "inner").mkdir()
    lane = Ingest(index, tmp_path / "waiting.db", [samples])
    job_id = await lane.submit(IngestRequest(path="samples/inner"))
    (samples / "inner").rmdir()
    (samples / "inner").symlink_to(outside)
    lane.start()
    await lane.drain()
    job = await lane.job(job_id)
    await lane.close()
    assert (job.status, job.files, job.attempts) == ("failed", 0, 1)
    assert job.errors[0].code == "path_outside_roots"


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"path": "a", "text": "b"},
        {"path": "a", "source": "b"},
        {"rebuild": True, "path": "a"},
        {"text": "a", "collection": "../x"},
    ],
)
def test_a_contradictory_request_is_refused(request_: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        IngestRequest.model_validate(request_)


async def test_a_collection_is_rebuilt_on_request(
    do: Do, index: IndexClient, collection: str
) -> None:
    await do(path="samples")
    before = await index.search("boost limit", 3, collection)
    job = await do(rebuild=True)
    assert (job.status, job.chunks) == ("done", 3)
    assert await index.search("boost limit", 3, collection) == before


async def test_jobs_wait_for_an_index_that_is_down_and_lose_no_attempt(
    launch: Launch, samples: Path, tmp_path: Path
) -> None:
    absent = IndexClient(tmp_path / "none.sock", patience=0)
    waiting = Ingest(absent, tmp_path / "ingest.db", [samples])
    waiting.start()
    job_id = await waiting.submit(IngestRequest(path="samples"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(waiting.drain(), 0.3)
    assert (await waiting.job(job_id)).status == "queued"
    await waiting.close()

    # What was queued is done by the next process.
    client = launch(tmp_path / "index").client
    later = Ingest(client, tmp_path / "ingest.db", [samples])
    later.start()
    await later.drain()
    job = await later.job(job_id)
    assert (job.status, job.files, job.attempts) == ("done", 2, 1)
    await later.close()


@pytest.mark.parametrize("gone", ["embeddings", "vector store"])
async def test_a_job_whose_dependency_goes_down_meanwhile_waits_for_it_and_loses_no_attempt(
    launch: Launch, samples: Path, tmp_path: Path, gone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddingsServer(dimension=8) as embeddings, QdrantServer() as qdrant:
        part: EmbeddingsServer | QdrantServer = embeddings if gone == "embeddings" else qdrant
        client = launch(
            tmp_path / "index", "--embed-url", embeddings.url, "--qdrant-url", qdrant.url
        ).client
        loop, given_back = asyncio.get_running_loop(), asyncio.Event()

        class Interrupted(IndexClient):
            async def upsert(self, collection: str, chunks: list[Chunk]) -> int:
                if not given_back.is_set():
                    part.stop()
                return await super().upsert(collection, chunks)

        lane = Ingest(Interrupted(client._socket), tmp_path / "ingest.db", [samples])
        release = lane._queue.release

        def give_back(job_id: str, progress: dict[str, object]) -> bool:
            loop.call_soon_threadsafe(given_back.set)
            return release(job_id, progress)

        monkeypatch.setattr(lane._queue, "release", give_back)
        lane.start()
        job_id = await lane.submit(IngestRequest(path="samples"))
        async with asyncio.timeout(60):
            await given_back.wait()
        part.start()
        await lane.drain()
        job = await lane.job(job_id)
        assert (job.status, job.files, job.chunks, job.attempts) == ("done", 2, 3, 1)
        await lane.close()
        assert qdrant.violations == []


async def test_a_running_job_goes_back_to_the_queue_when_the_lane_closes(
    index: IndexClient, samples: Path, tmp_path: Path, collection: str
) -> None:
    started = asyncio.Event()

    class Slow(IndexClient):
        async def upsert(self, collection: str, chunks: list[Chunk]) -> int:
            started.set()
            await asyncio.Event().wait()
            return 0

    lane = Ingest(Slow(index._socket), tmp_path / "ingest.db", [samples])
    lane.start()
    job_id = await lane.submit(IngestRequest(path="samples", collection=collection))
    await started.wait()
    assert (await lane.job(job_id)).status == "running"
    await lane.close()

    after = Ingest(index, tmp_path / "ingest.db", [samples])
    assert (await after.job(job_id)).status == "queued"
    assert (await after.job(job_id)).attempts == 0
    await after.close()
