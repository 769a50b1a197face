"""What the broker passes on, and how."""

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest

from services.broker.docker_engine import DockerEngine
from services.broker.server import Listening
from tests.services.broker.bodies import HOST, NAME, body
from tests.services.broker.conftest import Door
from tests.services.broker.fake_docker import OURS, FakeDocker

IMAGE = HOST.images["llamacpp"]
PASSED = [
    ("GET", "/_ping", "/_ping"),
    ("GET", "/version", "/version"),
    ("GET", "/v1.45/version", "/v1.45/version"),
    ("POST", f"/containers/{OURS}/start", f"/containers/{OURS}/start"),
    ("POST", f"/v1.51/containers/{NAME}/start", f"/v1.51/containers/{OURS}/start"),
    ("POST", f"/containers/{OURS[:12]}/stop?t=5", f"/containers/{OURS}/stop?t=5"),
    ("POST", f"/containers/{NAME}/kill", f"/containers/{OURS}/kill"),
    (
        "POST",
        f"/containers/{NAME}/kill?signal=TERM",
        f"/containers/{OURS}/kill?signal=SIGTERM",
    ),
    (
        "POST",
        f"/containers/{NAME}/wait?condition=removed",
        f"/containers/{OURS}/wait?condition=removed",
    ),
    (
        "GET",
        f"/containers/{NAME}/stats?stream=False&one-shot=True",
        f"/containers/{OURS}/stats?stream=false&one-shot=1",
    ),
    (
        "DELETE",
        f"/containers/{NAME}?v=False&link=False&force=True",
        f"/containers/{OURS}?force=1",
    ),
    ("GET", f"/v1.45/images/{IMAGE}/json", f"/v1.45/images/{IMAGE}/json"),
    (
        "POST",
        f"/v1.45/images/create?tag=server-b11347&fromImage={IMAGE.partition(':')[0]}",
        f"/v1.45/images/create?fromImage={IMAGE.partition(':')[0]}&tag=server-b11347",
    ),
]


@pytest.mark.parametrize(("method", "asked", "reached"), PASSED)
async def test_a_call_on_the_list_is_made_anew(
    door: Door, docker: FakeDocker, method: str, asked: str, reached: str
) -> None:
    status, _ = await door.ask(method, asked)
    assert status in (200, 201, 204)
    assert [call[:2] for call in docker.reached] == [(method, reached)]


async def test_a_ping_without_an_answer_is_passed_on(door: Door, docker: FakeDocker) -> None:
    async with door.http.head("http://broker/_ping") as answer:
        assert answer.status == 200
    assert docker.reached[0][:2] == ("HEAD", "/_ping")


async def test_an_engine_is_shown(door: Door) -> None:
    status, known = await door.ask("GET", f"/v1.45/containers/{NAME}/json")
    assert (status, known["Id"]) == (200, OURS)


async def test_a_container_that_is_not_there_is_docker_s_own_404(door: Door) -> None:
    status, told = await door.ask("POST", "/containers/nobody/start")
    assert (status, told) == (404, {"message": "No such container: nobody"})


async def test_a_list_is_of_our_engines_whatever_was_asked(door: Door, docker: FakeDocker) -> None:
    asked = {"label": ["com.docker.compose.project=shop"], "status": ["running"]}
    params = {"all": "1", "limit": "-1", "size": "0", "trunc_cmd": "0"}
    await door.ask("GET", "/containers/json", params=params | {"filters": json.dumps(asked)})
    labels = json.loads(docker.query["filters"])["label"]
    assert {"com.docker.compose.project=variet-brain", "variet.engine"} <= set(labels)
    assert json.loads(docker.query["filters"])["status"] == ["running"]
    assert docker.query["all"] == "1"


async def test_lines_of_a_log_arrive_at_once(door: Door, docker: FakeDocker) -> None:
    url = f"http://broker/containers/{NAME}/logs?stdout=1&stderr=1&follow=1&tail=100"
    async with door.http.get(url) as answer:
        assert await answer.content.readline() == b"first\n"
        assert not docker.go_on.is_set()
        docker.go_on.set()
        assert await answer.content.readline() == b"second\n"
        assert await answer.content.read() == b""


async def test_a_client_that_leaves_ends_the_call(door: Door, docker: FakeDocker) -> None:
    async with door.http.get(f"http://broker/containers/{NAME}/logs?follow=1") as answer:
        assert await answer.content.readline() == b"first\n"
        answer.close()
    async with asyncio.timeout(30):
        assert await docker.left.get() == f"/containers/{OURS}/logs"


async def test_an_answer_that_breaks_off_is_not_one_that_ends(
    door: Door, docker: FakeDocker
) -> None:
    async with door.http.get(f"http://broker/containers/{NAME}/logs?follow=1") as answer:
        assert await answer.content.readline() == b"first\n"
        await docker.close()
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.content.read()


async def test_the_gateway_is_told_what_there_is(door: Door, docker: FakeDocker) -> None:
    status, told = await door.ask("GET", "/variet/host")
    assert status == 200
    assert told == HOST.model_dump()
    assert docker.reached == []


async def test_health_is_docker_s(door: Door, docker: FakeDocker) -> None:
    assert (await door.ask("GET", "/variet/health"))[0] == 200
    await docker.close()
    assert (await door.ask("GET", "/variet/health"))[0] == 503


async def test_without_docker_each_call_says_so(door: Door, docker: FakeDocker) -> None:
    await docker.close()
    for answer in (await door.create(body()), await door.ask("POST", f"/containers/{NAME}/start")):
        assert answer[0] == 503
        assert "Docker does not answer" in answer[1]["message"]


async def test_calls_do_not_wait_for_each_other(door: Door, docker: FakeDocker) -> None:
    url = f"http://broker/containers/{NAME}/logs?follow=1"
    following = [await door.http.get(url) for _ in range(50)]
    assert (await door.ask("GET", "/_ping"))[0] == 200
    docker.go_on.set()
    assert [await answer.read() for answer in following] == [b"first\nsecond\n"] * 50


async def test_each_creation_and_refusal_is_a_line(
    door: Door, capsys: pytest.CaptureFixture[str]
) -> None:
    await door.create(body())
    await door.ask("GET", "/info")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["message"] for line in lines] == ["create", "refused"]
    assert lines[0]["name"] == NAME
    assert lines[1]["path"] == "'/info'"


async def test_a_socket_that_was_left_behind_is_taken(folder: Path, docker: FakeDocker) -> None:
    for _ in range(2):
        listening = Listening(HOST, DockerEngine(docker.socket), folder / "again.sock")
        await listening.open()
        # As after kill -9: nobody takes the socket away.
        (folder / "again.sock").rename(folder / "kept.sock")
        await listening.close()
        (folder / "kept.sock").rename(folder / "again.sock")
