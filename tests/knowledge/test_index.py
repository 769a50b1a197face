import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from contracts.errors import Conflict, StoreError, Unavailable
from contracts.knowledge import Chunk
from orchestrator.knowledge import index_process
from orchestrator.knowledge.index import IndexClient
from orchestrator.knowledge.supervision import IndexProcess
from orchestrator.knowledge.vector_store import HITS_PER_SOURCE
from tests.knowledge.conftest import Home, Launch
from tests.knowledge.embeddings_server import EmbeddingsServer

PASSAGES = {
    "boost.md": "The map boost_target holds the desired manifold pressure in kPa.",
    "leave.md": "Parents may stay at home for twelve months with their child.",
    "faults.md": "P0234: the turbocharger delivered more pressure than was asked for.",
}


def passage(source: str, text: str, part: int = 0, digest: str = "1") -> Chunk:
    line = part + 1
    return Chunk(source=source, digest=digest, part=part, start_line=line, end_line=line, text=text)


@pytest.fixture
async def filled(index: IndexClient) -> IndexClient:
    await index.upsert("passages", [passage(name, text) for name, text in PASSAGES.items()])
    return index


@pytest.fixture
def socket() -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        yield Path(folder, "index.sock")


@pytest.mark.parametrize(
    ("query", "source"),
    [
        ("boost_target", "boost.md"),
        ("boostTarget", "boost.md"),
        ("P0234", "faults.md"),
        ("how long is parental leave?", "leave.md"),
        ("overboost error code", "faults.md"),
    ],
)
async def test_a_passage_is_found_by_its_words_and_by_its_meaning(
    filled: IndexClient, query: str, source: str
) -> None:
    hits = await filled.search(query, 2, "passages")
    assert hits[0].source == source
    assert hits[0].text == PASSAGES[source]
    assert 1 >= hits[0].score >= hits[1].score > 0


async def test_one_source_takes_only_some_of_the_hits(index: IndexClient) -> None:
    many = [passage("long.md", f"Boost pressure note {n}", n) for n in range(20)]
    await index.upsert("cap", [*many, passage("short.md", "Boost pressure, briefly")])
    hits = await index.search("boost pressure", 10, "cap")
    assert [hit.source for hit in hits].count("long.md") == HITS_PER_SOURCE
    assert "short.md" in {hit.source for hit in hits}


async def test_the_same_chunk_again_changes_nothing(index: IndexClient) -> None:
    for _ in range(2):
        await index.upsert("again", [passage("a", "one"), passage("a", "two", 1)])
    assert (await index.stats()).collections["again"].chunks == 2


async def test_only_complete_sources_are_listed_and_old_versions_removed(
    index: IndexClient,
) -> None:
    await index.upsert("versions", [passage("d/a", "x"), passage("d/b", "x", part=1)])
    assert await index.sources("versions", "d/") == {"d/a": ["1"]}
    await index.upsert("versions", [passage("d/a", "y", digest="2"), passage("e/c", "z")])
    assert sorted((await index.sources("versions", "d/"))["d/a"]) == ["1", "2"]
    await index.delete("versions", "d/a", keep="2")
    assert await index.sources("versions") == {"d/a": ["2"], "e/c": ["1"]}
    await index.delete("versions", "d/a")
    assert await index.sources("versions") == {"e/c": ["1"]}


async def test_an_unknown_collection_is_empty(index: IndexClient) -> None:
    assert await index.search("anything", 5, "nowhere") == []
    assert await index.sources("nowhere") == {}
    await index.delete("nowhere", "a")
    assert await index.rebuild("nowhere") == 0


async def test_vectors_of_texts_come_in_their_order(index: IndexClient) -> None:
    both = await index.embed(["boost", "leave"])
    [alone] = await index.embed(["leave"])
    assert both[1] == pytest.approx(alone, abs=1e-6)
    assert await index.embed([]) == []


async def test_concurrent_searches_and_writes_all_succeed(index: IndexClient) -> None:
    writes = [index.upsert("busy", [passage(f"s{n}", f"Boost note {n}")]) for n in range(20)]
    searches = [index.search("boost", 3, "busy") for _ in range(20)]
    await asyncio.gather(*writes, *searches)
    assert (await index.stats()).collections["busy"].chunks == 20


async def test_what_was_acknowledged_outlives_kill_and_another_model_is_refused_until_rebuilt(
    launch: Launch, home: Home
) -> None:
    first = launch(home.folder, *home.arguments)
    chunks = [passage("a.md", f"Boost note {n}", n) for n in range(40)]
    for start in range(0, 40, 8):
        await first.client.upsert("docs", chunks[start : start + 8])
    first.kill()

    with EmbeddingsServer(dimension=8) as server:
        other = ["--embed-url", server.url, "--embed-model", "other"]
        second = launch(home.folder, *home.arguments, *other).client
        assert (await second.stats()).collections["docs"].chunks == 40
        with pytest.raises(Conflict, match="all-MiniLM-L6-v2") as refused:
            await second.search("boost")
        assert "variet ingest --rebuild" in refused.value.remedy
        with pytest.raises(Conflict):
            await second.upsert("docs", chunks[:1])

        assert await second.rebuild("docs") == 40
        found = (await second.stats()).collections["docs"]
        assert (found.chunks, found.model, found.dimension) == (40, "other", 8)
        assert await second.search("boost")
        assert home.holds == ["docs"]


async def test_without_embeddings_documents_are_found_by_their_words_until_they_are_back(
    launch: Launch, home: Home
) -> None:
    with EmbeddingsServer(dimension=8) as server:
        index = launch(home.folder, *home.arguments, "--embed-url", server.url).client
        await index.upsert("docs", [passage(name, text) for name, text in PASSAGES.items()])
        server.stop()

        hits = await index.search("desired manifold pressure", 3)
        assert [hit.source for hit in hits] == ["boost.md", "faults.md"]
        assert [hit.score for hit in hits] == [0.5, 0.3333]
        assert await index.search("nothing that is written there: xyzzy", 3) == []
        down = await index.stats()
        assert (down.ready, down.search) == (False, "words")
        assert down.error
        assert down.error.code == "embeddings_unavailable"
        assert server.url in down.error.message
        with pytest.raises(Unavailable, match=server.url):
            await index.upsert("docs", [passage("a", "x")])

        server.start()
        await index.embed(["an answer of the model"])
        up = await index.stats()
        assert (up.ready, up.search) == (True, "hybrid")
        assert len(await index.search("desired manifold pressure", 3)) == 3


async def test_it_ends_with_its_parent(launch: Launch, tmp_path: Path) -> None:
    running = launch(tmp_path)
    await running.client.upsert("docs", [passage("a", "x")])
    assert running.end() == 0
    # Whoever was killed cannot remove the folder of the socket.
    assert not running.client._socket.parent.exists()
    impatient = IndexClient(running.client._socket, patience=0)
    with pytest.raises(Unavailable) as down:
        await impatient.search("x")
    assert down.value.code == "index_unavailable"


async def test_it_is_started_again_when_it_dies(tmp_path: Path) -> None:
    async with IndexProcess(tmp_path, log_file=tmp_path / "log") as process:
        # A busy machine takes its time to start the process.
        process.client._patience = 60
        await process.client.upsert("docs", [passage("a", "x")])
        assert process._process
        process._process.kill()
        assert [hit.source for hit in await process.client.search("x")] == ["a"]
        assert process.restarts == 1


async def test_it_is_started_as_soon_as_a_process_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with IndexProcess(tmp_path, log_file=tmp_path / "log") as process:
        # A busy machine takes its time to start the process.
        process.client._patience = 60
        await process.client.upsert("docs", [passage("a", "x")])
        spawn, failures = process._spawn, 0

        async def spawn_at_the_second_time() -> asyncio.subprocess.Process:
            nonlocal failures
            if failures:
                return await spawn()
            failures += 1
            raise OSError("Cannot allocate memory")

        monkeypatch.setattr(process, "_spawn", spawn_at_the_second_time)
        assert process._process
        process._process.kill()
        assert [hit.source for hit in await process.client.search("x")] == ["a"]
        assert (failures, process.restarts) == (1, 1)


def test_a_folder_has_one_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_process, "_LOCK_PATIENCE", 0)
    with index_process._locked(tmp_path), pytest.raises(StoreError, match=re.escape(str(tmp_path))):
        index_process._locked(tmp_path)


@pytest.fixture
async def half_answering(socket: Path) -> AsyncIterator[IndexClient]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b'{"result": [{"source"')
        writer.close()

    async with await asyncio.start_unix_server(answer, socket):
        yield IndexClient(socket)


async def test_an_answer_cut_short_is_not_an_answer(half_answering: IndexClient) -> None:
    with pytest.raises(Unavailable, match="ended before it had answered"):
        await half_answering.search("x")
