import asyncio
from pathlib import Path

import httpx2
import pytest

from contracts.errors import NotFound, SettingsError, Unauthorized, Unavailable, Unprocessable
from contracts.manifest import Manifest
from contracts.settings import Settings, load_settings
from models.choice import ModelChoice, choose_model
from models.manifest import load_manifest
from models.store import Store
from tests.support.scripted_engine import ScriptedEngine

NOWHERE = "http://127.0.0.1:9/v1"


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_COMPAT_URL", "OPENAI_COMPAT_KEY", "MODEL_ID", "MAX_MODEL_LEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def manifest() -> Manifest:
    return load_manifest()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store without pulled models, in a repository with a demo model."""
    demo = tmp_path / "models" / "nano" / "nano.gguf"
    demo.parent.mkdir(parents=True)
    demo.write_bytes(b"GGUF")
    return Store(tmp_path / "store", repository=tmp_path)


def settings(**given: object) -> Settings:
    return load_settings(_env_file=None, **given)


def choose(store: Store, **given: object) -> ModelChoice:
    return choose_model(settings(**given), store=store)


def put(store: Store, manifest: Manifest, model_id: str) -> Path:
    entry = manifest.get(model_id)
    assert entry is not None
    path = store.path(entry)
    assert path is not None
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF")
    return path


async def choose_beside(store: Store, **given: object) -> ModelChoice:
    """Choose in a thread: the scripted engine answers from this one's event loop."""
    return await asyncio.to_thread(choose, store, **given)


def test_with_nothing_configured_the_demo_model_answers_and_says_what_it_is(store: Store) -> None:
    choice = choose(store)
    assert choice.id == "nano"
    assert choice.demo
    assert choice.context == 2_048
    assert choice.path is not None
    assert choice.path.name == "nano.gguf"
    assert choice.tools_evaluated is not None
    assert "get_map" in choice.tools_evaluated
    assert "Demo model" in choice.sentence
    assert "variet models pull" in choice.sentence


def test_a_pulled_model_comes_before_the_demo_model(store: Store, manifest: Manifest) -> None:
    path = put(store, manifest, "qwen3-1.7b")
    choice = choose(store)
    assert (choice.id, choice.path) == ("qwen3-1.7b", path)
    assert choice.tools_evaluated is None
    assert not choice.demo


def test_model_id_decides_among_those_that_are_here(store: Store, manifest: Manifest) -> None:
    put(store, manifest, "qwen3-4b")
    put(store, manifest, "qwen2.5-1.5b")
    assert choose(store).id == "qwen3-4b"
    assert choose(store, model_id="qwen2.5-1.5b").id == "qwen2.5-1.5b"
    assert choose(store, model_id="nano").id == "nano"


def test_a_model_that_is_not_here_names_the_command_that_fetches_it(store: Store) -> None:
    with pytest.raises(NotFound, match="variet models pull qwen3-4b"):
        choose(store, model_id="qwen3-4b")


def test_an_unknown_model_lists_the_known_ones(store: Store) -> None:
    with pytest.raises(SettingsError, match=r"MODEL_ID=gpt-9 .*qwen3-1\.7b"):
        choose(store, model_id="gpt-9")


def test_a_model_of_another_engine_is_not_run_here(store: Store) -> None:
    with pytest.raises(SettingsError, match="needs the engine vllm"):
        choose(store, model_id="qwen2.5-32b-awq")


def test_any_gguf_file_can_be_named(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "My-Model.gguf"
    path.write_bytes(b"GGUF")
    choice = choose(store, model_id=str(path), max_model_len=1_024)
    assert (choice.id, choice.path, choice.context) == ("My-Model", path, 1_024)
    with pytest.raises(NotFound, match="no such file"):
        choose(store, model_id="missing.gguf")


def test_a_context_beyond_the_model_is_refused(store: Store) -> None:
    with pytest.raises(SettingsError, match="MAX_MODEL_LEN=4096 is more than nano can take, 2048"):
        choose(store, max_model_len=4_096)


def test_without_any_model_it_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="variet models pull"):
        choose(Store(tmp_path / "store", repository=tmp_path))


def test_verify_reads_the_file(store: Store, manifest: Manifest) -> None:
    put(store, manifest, "qwen3-1.7b")
    with pytest.raises(Unprocessable, match="pull it again"):
        choose_model(settings(), verify=True, store=store)


async def test_a_configured_server_comes_first(store: Store, manifest: Manifest) -> None:
    put(store, manifest, "qwen3-4b")
    async with ScriptedEngine() as engine:
        choice = await choose_beside(store, openai_compat_url=engine.url, max_model_len=4_096)
    assert choice.id == "scripted"
    assert choice.base_url == engine.url
    assert choice.path is None
    assert choice.context == 4_096
    assert choice.sentence == f"scripted, served at {engine.url}."


async def test_a_served_model_of_the_manifest_keeps_what_the_manifest_knows(store: Store) -> None:
    async with ScriptedEngine() as engine:
        choice = await choose_beside(
            store, openai_compat_url=engine.url, model_id="qwen3.6-35b-a3b"
        )
    assert choice.context == 65_536
    assert choice.reasoning_field == "reasoning_content"


def test_of_the_gateways_names_default_is_taken_and_its_model_known(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [
        {"id": name, "max_model_len": 1_024, "variet": {"model": model}}
        for name, model in (("fast", "qwen3-4b"), ("nano", "nano"), ("default", "nano"))
    ]
    request = httpx2.Request("GET", NOWHERE)
    answer = httpx2.Response(200, json={"data": items}, request=request)
    monkeypatch.setattr("models.choice.httpx2.get", lambda *_, **__: answer)
    choice = choose(store, openai_compat_url=NOWHERE)
    assert choice.id == "default"
    assert choice.context == 1_024
    assert choice.tools_evaluated is not None
    items.pop()
    answer = httpx2.Response(200, json={"data": items}, request=request)
    with pytest.raises(SettingsError, match="serves 2 models"):
        choose(store, openai_compat_url=NOWHERE)


def test_a_server_that_does_not_answer_is_an_error(store: Store) -> None:
    with pytest.raises(Unavailable, match=f"OPENAI_COMPAT_URL={NOWHERE} does not answer") as caught:
        choose(store, openai_compat_url=NOWHERE)
    assert "LOCAL_FALLBACK=1" in caught.value.remedy


async def test_a_refused_key_is_an_error_of_its_own(store: Store) -> None:
    async with ScriptedEngine(key="right") as engine:
        with pytest.raises(Unauthorized, match="OPENAI_COMPAT_KEY"):
            await choose_beside(store, openai_compat_url=engine.url, openai_compat_key="wrong")
        choice = await choose_beside(store, openai_compat_url=engine.url, openai_compat_key="right")
    assert choice.id == "scripted"


def test_with_local_fallback_the_local_model_answers_and_says_why(
    store: Store, manifest: Manifest
) -> None:
    choice = choose(store, openai_compat_url=NOWHERE, model_id="big", local_fallback=True)
    assert choice.id == "nano"
    assert choice.base_url is None
    assert choice.sentence.startswith(f"OPENAI_COMPAT_URL={NOWHERE} does not answer")
    assert "Instead: nano" in choice.sentence
    put(store, manifest, "qwen3-4b")
    put(store, manifest, "qwen3-1.7b")
    named = choose(store, openai_compat_url=NOWHERE, model_id="qwen3-1.7b", local_fallback=True)
    assert named.id == "qwen3-1.7b"
