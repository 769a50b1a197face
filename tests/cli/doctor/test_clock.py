import asyncio
import json
from email.utils import formatdate
from pathlib import Path

import pytest

from cli.doctor.clock import check_clock, seconds_ahead
from cli.doctor.probe import Answer, ask
from services.engine.options import EngineOptions
from services.engine.process import EngineProcess
from tests.knowledge.embeddings_server import EmbeddingsServer
from tests.support.tiny_gguf import write_tiny_gguf

NOW = 1_800_000_000.4


def dated(ahead: float, took: float = 0.1) -> Answer:
    headers = {"date": formatdate(int(NOW + ahead), usegmt=True)}
    return Answer(200, headers, b"", NOW, NOW + took)


@pytest.mark.parametrize(
    ("ahead", "status", "said"),
    [
        (0, "ok", "less than 2 s"),
        (1.9, "ok", "less than 2 s"),
        (5, "warning", "ahead"),
        (-30, "warning", "behind"),
        (-90, "failure", "behind"),
        (7200, "failure", "120 minutes ahead"),
    ],
)
def test_clocks_that_differ_are_told_by_how_much(ahead: float, status: str, said: str) -> None:
    found = check_clock([dated(ahead)])
    assert (found.status, said in found.detail) == (status, True)
    assert bool(found.remedy) == (status != "ok")


def test_a_slow_answer_is_no_difference_of_clocks() -> None:
    assert seconds_ahead(dated(20, took=30)) == 0


def test_of_several_servers_the_least_difference_counts() -> None:
    assert check_clock([dated(30, took=0.1), dated(30, took=29)]).status == "ok"


def test_without_any_time_it_is_unknown_and_not_well() -> None:
    mute = Answer(200, {}, b'{"data": [{"id": "x", "created": 1700000000}]}', NOW, NOW)
    garbled = Answer(200, {"date": "yesterday"}, b"[]", NOW, NOW)
    assert seconds_ahead(mute) is None, "others than llama-server put no clock there"
    found = check_clock([mute, garbled])
    assert (found.status, found.detail.startswith("Unknown")) == ("warning", True)


def test_llama_server_s_list_of_models_tells_the_time() -> None:
    body = json.dumps({"data": [{"id": "x", "owned_by": "llamacpp", "created": int(NOW) + 10}]})
    answer = Answer(200, {}, body.encode(), NOW, NOW + 0.1)
    assert seconds_ahead(answer) == pytest.approx(9.5)


async def test_a_real_llama_server_tells_the_present_second(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    engine = EngineProcess(EngineOptions(model, "tiny", context=512))
    await engine.start()
    try:
        url = f"{engine.base_url}/models"
        answer = await asyncio.to_thread(ask, url, engine.api_key)
    finally:
        await engine.stop()
    assert isinstance(answer, Answer)
    assert "date" not in answer.headers
    assert seconds_ahead(answer) == 0


def test_a_server_of_python_s_tells_it_in_the_date() -> None:
    with EmbeddingsServer(2) as server:
        answer = ask(f"{server.url}/embeddings", body={"input": ["text"]})
    assert isinstance(answer, Answer)
    assert seconds_ahead(answer) == 0
