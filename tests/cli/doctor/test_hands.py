import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.doctor import hands, network
from cli.doctor.examination import examine
from cli.doctor.finding import Finding
from cli.doctor.hands import (
    check_clocks,
    check_embeddings,
    check_engine,
    expected_dimension,
)
from cli.doctor.probe import Silence
from contracts.settings import Settings
from tests.cli.conftest import Variet
from tests.cli.doctor.programs import Programs, container
from tests.cli.doctor.test_secrets import NEEDED
from tests.knowledge.embeddings_server import EmbeddingsServer
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripted_orchestrator import Scripted, scripted_orchestrator

KEY = "Zx9-qT4_mK7wLp2aBc5dEf8g"
MODEL = "BAAI/bge-small-en-v1.5"
Look = Callable[..., dict[str, Finding]]


def settings(**values: str) -> Settings:
    return Settings(_env_file=None, **values)  # type: ignore[arg-type]


async def brain(**values: str) -> dict[str, Finding]:
    def look() -> dict[str, Finding]:
        given = settings(**values)
        seen = {"brain": check_engine(given)}
        if given.embed_url:
            seen["embeddings"] = check_embeddings(given, given.embed_url)
        return seen

    return await asyncio.to_thread(look)


async def test_a_brain_that_answers_is_well() -> None:
    with EmbeddingsServer(1) as embeddings:
        embeddings.answer = {"data": [{"embedding": [0.1] * 384}]}
        async with ScriptedEngine(key=KEY) as engine:
            seen = await brain(
                openai_compat_url=engine.url,
                openai_compat_key=KEY,
                embed_url=embeddings.url,
                embed_model=MODEL,
            )
    assert "serves scripted" in seen["brain"].detail
    assert seen["embeddings"].detail.endswith("384 dimensions")


async def test_a_wrong_key_is_told_from_a_brain_that_is_away() -> None:
    async with ScriptedEngine(key="other" * 8) as engine:
        wrong = await brain(openai_compat_url=engine.url, openai_compat_key=KEY)
        assert "refuses our key (401)" in wrong["brain"].detail
        assert "GATEWAY_API_KEY" in wrong["brain"].remedy
        await engine.stop()
        away = await brain(openai_compat_url=engine.url, openai_compat_key=KEY)
        assert "refused the connection" in away["brain"].detail
        assert "make up" in away["brain"].remedy


async def test_what_is_no_engine_is_told_as_such() -> None:
    async with ScriptedEngine() as engine:
        seen = await brain(openai_compat_url=f"{engine.url}/elsewhere")
    assert (seen["brain"].status, "not as such a server does" in seen["brain"].detail) == (
        "failure",
        True,
    )


async def test_without_an_address_of_the_brain_it_says_how_to_set_one() -> None:
    assert "variet init" in (await brain())["brain"].remedy


def test_each_way_of_not_answering_has_a_remedy_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://127.0.0.1:8000/v1"
    remedies = {}
    for reason in ("name", "route", "refused", "timeout", "silent", "stranger"):
        silence = Silence(reason, "It is silent.")
        monkeypatch.setattr(hands, "ask", lambda *_, silence=silence: silence)
        found = check_engine(settings(openai_compat_url=url))
        assert found.status == "failure"
        remedies[reason] = found.remedy
    assert len(set(remedies.values())) == len(remedies)
    assert "HANDS_IP=127.0.0.1" in remedies["timeout"], "this host's address on the way there"


async def test_embeddings_of_another_length_are_told_with_the_way_back() -> None:
    with EmbeddingsServer(7) as embeddings:
        async with ScriptedEngine() as engine:
            url = {"openai_compat_url": engine.url, "embed_url": embeddings.url}
            seen = await brain(**url, embed_model=MODEL)
            assert "answers 7 numbers, but EMBED_MODEL" in seen["embeddings"].detail
            assert "variet ingest --rebuild" in seen["embeddings"].remedy
            seen = await brain(**url, embed_model="someone/elses-model")
            assert seen["embeddings"].detail.endswith("7 dimensions")
            embeddings.answer = {"data": [{"embedding": []}]}
            assert (await brain(**url))["embeddings"].status == "failure"
            embeddings.failing = 503
            assert "answered 503" in (await brain(**url))["embeddings"].detail
            embeddings.failing = 401
            assert "EMBED_KEY" in (await brain(**url))["embeddings"].remedy


def test_the_expected_length_is_the_manifest_s() -> None:
    assert expected_dimension("all-MiniLM-L6-v2") == 384
    assert expected_dimension("BAAI/bge-large-en-v1.5") == 1024
    assert expected_dimension("unknown") is None


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """`host(engine, setting=value)`: what doctor finds on a workstation whose containers are well
    and which reaches `engine` as its brain."""
    for name in ("VARIET_URL", *map(str.upper, NEEDED)):
        monkeypatch.delenv(name, raising=False)
    programs = Programs(tmp_path, monkeypatch)
    programs.docker(
        info='{"ServerVersion": "28.5.2"}',
        services="postgres orchestrator",
        ps=container("postgres") + "\n" + container("orchestrator"),
    )
    programs.add("ip", "echo '[]'")

    def look(engine: ScriptedEngine, orchestrator: Scripted, **changed: Any) -> dict[str, Finding]:
        values = {
            **{name.upper(): KEY for name in NEEDED},
            "LANGFUSE_ENCRYPTION_KEY": "0123456789abcdef" * 4,
            "VARIET_ROLE": "hands",
            "BRAIN_IP": "127.0.0.1",
            "PORT": orchestrator.url.rpartition(":")[2],
            "OPENAI_COMPAT_URL": engine.url,
            **changed,
        }
        file = tmp_path / "hands.env"
        file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        file.chmod(0o600)
        monkeypatch.setenv("VARIET_ENV_FILE", str(file))
        found, role = examine(None, None)
        assert role == "hands"
        return {one.name: one for one in found}

    return look


HEALTH = {"status": "ok", "checks": {"tools": {"status": "ok", "detail": "12 tools"}}}


@pytest.fixture
def running() -> Any:
    with scripted_orchestrator() as script:
        script.routes["GET /health"] = HEALTH
        yield script


async def test_a_workstation_is_looked_at_as_a_whole(host: Look, running: Scripted) -> None:
    async with ScriptedEngine(key=KEY) as engine:
        seen = await asyncio.to_thread(host, engine, running)
    not_well = {name: one.detail for name, one in seen.items() if one.status != "ok"}
    # The scripted engine tells no time; the environment of a developer may be ahead of its lock.
    assert set(not_well) - {"environment"} == {"clock"}, not_well
    assert {
        *("python", "settings", "settings file", "secrets", "docker", "compose", "containers"),
        *("brain", "brain's other ports", "exposure", "firewall", "orchestrator", "tools"),
        f"port {running.url.rpartition(':')[2]}",
    } <= set(seen)


async def test_an_open_port_of_the_brain_is_found_from_here(
    host: Look, running: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ScriptedEngine(key=KEY) as engine, ScriptedEngine() as stray:
        monkeypatch.setattr(network, "KNOWN", {engine.port: "an engine", stray.port: "Redis"})
        monkeypatch.setattr(hands, "own_address", lambda _: "127.0.0.9")
        monkeypatch.setattr(hands, "LOOPBACK", frozenset())
        seen = await asyncio.to_thread(host, engine, running)
    found = seen["brain's other ports"]
    assert (found.status, f"{stray.port} (Redis)" in found.detail) == ("failure", True)
    assert str(engine.port) not in found.detail


async def test_langfuse_is_looked_at_where_its_profile_is_selected(
    host: Look, running: Scripted
) -> None:
    async with ScriptedEngine(key=KEY) as engine:
        changed = {"COMPOSE_PROFILES": "langfuse", "LANGFUSE_BASE_URL": "http://127.0.0.1:9"}
        away = await asyncio.to_thread(lambda: host(engine, running, **changed))
        assert (away["langfuse"].status, "make logs" in away["langfuse"].remedy) == (
            "failure",
            True,
        )
        running.routes["GET /api/public/health"] = {"status": "OK"}
        changed["LANGFUSE_BASE_URL"] = running.url
        there = await asyncio.to_thread(lambda: host(engine, running, **changed))
        assert there["langfuse"].status == "ok"
        assert "langfuse" not in await asyncio.to_thread(host, engine, running)


async def test_published_everywhere_is_said(host: Look, running: Scripted) -> None:
    async with ScriptedEngine(key=KEY) as engine:
        seen = await asyncio.to_thread(lambda: host(engine, running, BIND_ADDR="0.0.0.0"))
    assert (seen["exposure"].status, "every network" in seen["exposure"].detail) == (
        "warning",
        True,
    )
    assert seen["firewall"].status == "warning"


async def test_an_orchestrator_that_does_not_run_is_a_failure_here(
    host: Look, running: Scripted, variet: Variet, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the report for programs has one shape."""
    async with ScriptedEngine(key=KEY) as engine:
        seen = await asyncio.to_thread(lambda: host(engine, running, PORT="9"))
        assert (seen["orchestrator"].status, "make up" in seen["orchestrator"].remedy) == (
            "failure",
            True,
        )
        assert await asyncio.to_thread(variet, "doctor", "--json") == 1
        assert await asyncio.to_thread(variet, "doctor", "--role", "brain", "--json") == 1
    report, end = json.JSONDecoder().raw_decode(text := capsys.readouterr().out)
    assert (report["status"], report["role"]) == ("failure", "hands")
    assert {tuple(one) for one in report["checks"]} == {("name", "status", "detail", "remedy")}
    assert json.loads(text[end:])["role"] == "brain"


async def test_the_clock_is_that_of_whichever_server_tells_the_time() -> None:
    def statuses(**values: str) -> list[str]:
        return [one.status for one in check_clocks(settings(**values))]

    with EmbeddingsServer(8) as embeddings:
        async with ScriptedEngine() as engine:
            mute = {"openai_compat_url": engine.url}
            assert await asyncio.to_thread(lambda: statuses(**mute)) == ["warning"]
            both = {**mute, "embed_url": embeddings.url}
            assert await asyncio.to_thread(lambda: statuses(**both)) == ["ok"]
            await engine.stop()
            assert await asyncio.to_thread(lambda: statuses(**both)) == ["ok"]
            assert await asyncio.to_thread(lambda: statuses(**mute)) == [], "told by others"
