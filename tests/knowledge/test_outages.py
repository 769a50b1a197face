"""What an orchestrator goes on doing while the vector store or the embeddings are down."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from contracts.knowledge import Chunk
from contracts.settings import Settings
from orchestrator.agent.model import Engine
from orchestrator.assembly import Orchestrator
from orchestrator.knowledge.index import IndexClient
from orchestrator.knowledge.retrieval import match
from tests.knowledge.conftest import Launch
from tests.knowledge.embeddings_server import EmbeddingsServer
from tests.knowledge.qdrant_server import QdrantServer
from tests.support.hands import Hands, hands
from tests.support.probe_tools import Probe
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripted_reply import script
from tools import docs

CHUNK = Chunk(
    source="boost.md", digest="1", part=0, start_line=1, end_line=1, text="The limit is 210 kPa."
)
SEARCH = {"tool_calls": [{"name": "search_docs", "arguments": {"query": "limit"}}]}


@dataclass
class Stack:
    hands: Hands
    qdrant: QdrantServer
    embeddings: EmbeddingsServer


@pytest.fixture
def servers() -> Iterator[tuple[QdrantServer, EmbeddingsServer]]:
    with QdrantServer(key="right") as qdrant, EmbeddingsServer(dimension=8) as embeddings:
        yield qdrant, embeddings
        assert qdrant.violations == []


@pytest.fixture
async def stack(
    servers: tuple[QdrantServer, EmbeddingsServer],
    launch: Launch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Stack]:
    qdrant, embeddings = servers
    monkeypatch.setenv("QDRANT_API_KEY", "right")
    arguments = ["--qdrant-url", qdrant.url, "--embed-url", embeddings.url]
    index = launch(tmp_path / "index", *arguments).client
    await index.upsert("docs", [CHUNK])
    async with ScriptedEngine() as engine:
        probe = Probe()
        tools = [probe.server, docs.server(match(index))]
        async with hands(engine.url, tmp_path, *tools, index=index) as running:
            yield Stack(running, qdrant, embeddings)


async def test_without_the_vector_store_chat_and_tools_go_on_and_say_that_retrieval_is_off(
    stack: Stack,
) -> None:
    stack.qdrant.stop()
    client = stack.hands.client
    answer = await stack.hands.ask(script(SEARCH, {"text": "I could not look it up."}))
    assert (answer["status"], answer["answer"]) == ("completed", "I could not look it up.")
    [call] = answer["tool_calls"]
    assert (call["status"], call["error"]["code"]) == ("failed", "vector_store_unavailable")
    assert f"QDRANT_URL={stack.qdrant.url}" in call["error"]["message"]

    look = {"tool_calls": [{"name": "look", "arguments": {"text": "x"}}]}
    other = await stack.hands.ask(script(look, {"text": "Seen."}))
    assert other["tool_calls"][0]["status"] == "finished"

    found = await client.get("/search?q=limit")
    assert (found.status_code, found.json()["error"]["code"]) == (503, "vector_store_unavailable")
    health = (await client.get("/health")).json()
    assert (health["status"], health["checks"]["index"]["status"]) == ("degraded", "down")
    assert stack.qdrant.url in health["checks"]["index"]["detail"]
    queued = await client.post("/ingest", json={"text": "The limit is 190 kPa."})
    assert queued.status_code == 202

    stack.qdrant.start()
    assert (await client.get("/search?q=limit")).json()["results"][0]["source"] == "boost.md"


async def test_a_silent_vector_store_is_named_in_time(stack: Stack) -> None:
    stack.qdrant.silent = True
    stats = await stack.hands.orchestrator.index.stats(0.2)
    assert stats.error
    assert stats.error.message == f"QDRANT_URL={stack.qdrant.url} did not answer within 0.2 s."
    health = (await stack.hands.client.get("/health")).json()
    assert (health["status"], health["checks"]["index"]["status"]) == ("degraded", "down")


async def test_without_embeddings_tools_find_documents_by_their_words_and_health_says_so(
    stack: Stack,
) -> None:
    stack.embeddings.stop()
    answer = await stack.hands.ask(script(SEARCH, {"text": "It is 210 kPa [1]."}))
    [call] = answer["tool_calls"]
    assert call["status"] == "finished"
    assert call["result"]["results"][0]["source"] == "boost.md"
    health = (await stack.hands.client.get("/health")).json()
    check = health["checks"]["index"]
    assert (health["status"], check["status"]) == ("degraded", "degraded")
    assert check["detail"].startswith(f"searching by words alone: EMBED_URL={stack.embeddings.url}")


async def test_the_settings_reach_the_index_process(
    servers: tuple[QdrantServer, EmbeddingsServer], tmp_path: Path
) -> None:
    qdrant, embeddings = servers
    async with ScriptedEngine() as engine:
        settings = Settings(
            _env_file=None,
            state_dir=tmp_path,
            openai_compat_url=engine.url,
            qdrant_url=qdrant.url,
            qdrant_api_key=SecretStr("right"),
            embed_url=embeddings.url,
            embed_key=SecretStr("another"),
            embed_model="some-model",
        )
        scripted = Engine(url=engine.url, key="", model="scripted", context=8_192)
        async with Orchestrator(settings, scripted, lambda _settings, _index: {}) as whole:
            assert isinstance(whole.index, IndexClient)
            # A busy machine takes its time to start the process.
            whole.index._patience = 60
            await whole.index.upsert("docs", [CHUNK])
    [note] = qdrant.collections.values()
    assert (note["model"], note["dimension"]) == ("some-model", 8)
    assert {key for _, key in embeddings.requests} == {"Bearer another"}
