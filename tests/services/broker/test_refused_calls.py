"""Calls that are not on the list, and requests that are not what they seem: each is refused with a
message that Docker's SDK shows, and nothing reaches Docker."""

import json
import re

import pytest

from tests.services.broker.bodies import HOST, NAME, body
from tests.services.broker.conftest import Door
from tests.services.broker.fake_docker import GATEWAY, OURS, THEIRS, FakeDocker

IMAGE = HOST.images["llamacpp"]
CALLS = [
    ("POST", f"/containers/{OURS}/exec"),
    ("POST", f"/exec/{OURS}/start"),
    ("POST", f"/containers/{OURS}/attach"),
    ("GET", f"/containers/{OURS}/attach/ws"),
    ("GET", f"/containers/{OURS}/archive?path=/"),
    ("PUT", f"/containers/{OURS}/archive?path=/"),
    ("GET", f"/containers/{OURS}/export"),
    ("GET", f"/containers/{OURS}/top"),
    ("GET", f"/containers/{OURS}/changes"),
    ("POST", f"/containers/{OURS}/update"),
    ("POST", f"/containers/{OURS}/rename?name=x"),
    ("POST", f"/containers/{OURS}/resize"),
    ("POST", f"/containers/{OURS}/pause"),
    ("POST", f"/containers/{OURS}/restart"),
    ("POST", "/containers/prune"),
    ("POST", f"/commit?container={OURS}"),
    ("POST", "/build"),
    ("POST", "/build/prune"),
    ("POST", "/session"),
    ("POST", "/grpc"),
    ("GET", "/images/json"),
    ("POST", "/images/load"),
    ("POST", "/images/prune"),
    ("GET", f"/images/{IMAGE}/get"),
    ("GET", f"/images/{IMAGE}/history"),
    ("POST", f"/images/{IMAGE}/tag?repo=x"),
    ("POST", f"/images/{IMAGE}/push"),
    ("DELETE", f"/images/{IMAGE}"),
    ("GET", "/images/alpine/json"),
    ("GET", f"/images/{IMAGE}x/json"),
    ("GET", f"/images/{IMAGE.replace('/', '%2F')}/json"),
    ("GET", f"/images/{IMAGE}%00/json"),
    ("POST", "/images/create?fromImage=alpine&tag=latest"),
    ("POST", f"/images/create?fromImage={IMAGE}@sha256:{'0' * 64}"),
    ("POST", "/images/create?fromImage=ghcr.io/ggml-org/llama.cpp"),
    ("POST", "/images/create?fromSrc=http://198.51.100.1/x.tar&repo=x"),
    ("POST", "/images/create?fromSrc=-"),
    ("POST", f"/images/create?fromImage={IMAGE}&fromSrc=-"),
    ("POST", f"/images/create?fromImage={IMAGE}&changes=CMD+sh"),
    ("POST", f"/images/create?fromImage={IMAGE}&fromImage=alpine"),
    ("POST", f"/images/create?fromImage={IMAGE}&platform=linux/arm64"),
    ("GET", "/volumes"),
    ("POST", "/volumes/create"),
    ("DELETE", "/volumes/variet-brain_slots"),
    ("POST", "/volumes/prune"),
    ("GET", "/networks"),
    ("POST", "/networks/create"),
    ("POST", "/networks/variet-brain_vllm/connect"),
    ("POST", "/networks/variet-brain_vllm/disconnect"),
    ("POST", "/swarm/init"),
    ("GET", "/secrets"),
    ("POST", "/services/create"),
    ("GET", "/nodes"),
    ("GET", "/plugins"),
    ("POST", "/plugins/pull?remote=x"),
    ("GET", "/info"),
    ("GET", "/events"),
    ("GET", "/system/df"),
    ("POST", "/auth"),
    ("GET", "/debug/pprof/"),
    ("GET", "/"),
    ("GET", "/variet"),
    ("POST", "/variet/host"),
    ("OPTIONS", "/_ping"),
    ("POST", "/_ping"),
    # What a call that is on the list may not say.
    ("GET", "/containers/json?size=1"),
    ("GET", "/containers/json?before=x"),
    ("GET", "/containers/json?filters=[]"),
    ("GET", '/containers/json?filters={"ancestor":["x"]}'),
    ("GET", '/containers/json?filters={"label":{"x":true}}'),
    ("GET", '/containers/json?filters={"label":["x"],"label":["y"]}'),
    ("GET", f"/containers/{OURS}/json?size=1"),
    ("POST", f"/containers/{OURS}/start?detachKeys=a"),
    ("POST", f"/containers/{OURS}/kill?signal=STOP"),
    ("POST", f"/containers/{OURS}/kill?signal=SIGUSR1"),
    ("POST", f"/containers/{OURS}/stop?t=-1"),
    ("POST", f"/containers/{OURS}/stop?t=1&t=2"),
    ("POST", f"/containers/{OURS}/wait?condition=x"),
    ("GET", f"/containers/{OURS}/logs?details=1"),
    ("GET", f"/containers/{OURS}/logs?follow=maybe"),
    ("GET", f"/containers/{OURS}/stats"),
    ("GET", f"/containers/{OURS}/stats?stream=1"),
    ("DELETE", f"/containers/{OURS}?v=1"),
    ("DELETE", f"/containers/{OURS}?v=true&force=1"),
    ("DELETE", f"/containers/{OURS}?link=1"),
    ("DELETE", f"/containers/{OURS}?V=1"),
    # Containers that are not ours, by id, by its beginning and by name.
    *(
        (method, f"/containers/{name}{call}")
        for name in (THEIRS, THEIRS[:12], "database", GATEWAY, "variet-brain-gateway-1")
        for method, call in (
            ("GET", "/json"),
            ("POST", "/start"),
            ("POST", "/stop"),
            ("POST", "/kill?signal=KILL"),
            ("POST", "/wait"),
            ("GET", "/logs?stdout=1"),
            ("GET", "/stats?stream=0"),
            ("DELETE", "?force=1"),
        )
    ),
]
PATHS = [
    f"/containers/{OURS}/../{THEIRS}/start",
    f"/containers/{OURS}/%2e%2e/{THEIRS}/start",
    f"/containers/{OURS}%2fstart",
    f"/containers/{OURS}%2Fexec/start",
    f"/containers/%61{OURS[1:]}/start",
    f"//containers/{OURS}/start",
    f"/containers//{OURS}/start",
    f"/./containers/{OURS}/start",
    f"/containers/{OURS}/start/",
    f"/containers/{OURS}/start;x",
    f"/containers/{OURS}/start%3fx",
    f"/containers/{OURS}/start%0d%0aX:y",
    f"/containers/{OURS}\\start",
    f"/v1.24/containers/{OURS}/start",
    f"/v1.43/containers/{OURS}/start",
    f"/v2.45/containers/{OURS}/start",
    f"/v1.450/containers/{OURS}/start",
    f"/v1.45/v1.45/containers/{OURS}/start",
    f"/V1.45/containers/{OURS}/start",
    f"/Containers/{OURS}/start",
    f"/containers/{OURS}/start#x",
    f"http://docker/containers/{OURS}/start",
    f"http://docker/v1.45/containers/{OURS}/start",
    "*",
    f"/containers/{OURS}\xe9/start",
    f"/containers/-{OURS}/start",
    "/containers//start",
    f"/containers/{'x' * 129}/start",
]
CREATE = f"POST /v1.45/containers/create?name={NAME} HTTP/1.1\r\nHost: d\r\n"
BODY = json.dumps(body())
JSON = "Content-Type: application/json\r\n"
REQUESTS = {
    "connect": "CONNECT docker:80 HTTP/1.1\r\nHost: docker\r\n\r\n",
    "upgrade": (
        f"POST /containers/{OURS}/start HTTP/1.1\r\nHost: d\r\n"
        "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    ),
    "upgrade to h2c": (
        "GET /version HTTP/1.1\r\nHost: d\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        "Upgrade: h2c\r\n"
        "HTTP2-Settings: AAMAAABk\r\n\r\n"
    ),
    "connection names a header": (
        f"{CREATE}{JSON}Connection: Content-Length\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}"
    ),
    "expect": f"{CREATE}{JSON}Expect: 100-continue\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}",
    "chunked": (
        f"{CREATE}{JSON}Transfer-Encoding: chunked\r\n\r\n{len(BODY):x}\r\n{BODY}\r\n0\r\n\r\n"
    ),
    "both lengths": (
        f"{CREATE}{JSON}Content-Length: {len(BODY)}\r\nTransfer-Encoding: chunked\r\n\r\n"
        f"0\r\n\r\n{BODY}"
    ),
    "two lengths": (
        f"{CREATE}{JSON}Content-Length: 2\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}"
    ),
    "a strange chunking": (
        f"{CREATE}{JSON}Transfer-Encoding: xchunked\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}"
    ),
    "compressed": (
        f"{CREATE}{JSON}Content-Encoding: gzip\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}"
    ),
    "no type": f"{CREATE}Content-Length: {len(BODY)}\r\n\r\n{BODY}",
    "a form": (
        f"{CREATE}Content-Type: application/x-www-form-urlencoded\r\n"
        f"Content-Length: {len(BODY)}\r\n\r\n{BODY}"
    ),
    "too large": f"{CREATE}{JSON}Content-Length: {2**20 + 1}\r\n\r\n",
    "no body": f"{CREATE}{JSON}Content-Length: 0\r\n\r\n",
    "a body for start": (
        f"POST /containers/{OURS}/start HTTP/1.1\r\nHost: d\r\n{JSON}"
        'Content-Length: 20\r\n\r\n{"Binds":["/:/host"]}'
    ),
    "a request in the body": (
        f"POST /containers/{OURS}/start HTTP/1.1\r\nHost: d\r\nContent-Length: 34\r\n\r\n"
        "GET /info HTTP/1.1\r\nHost: docker\r\n\r\n"
    ),
    "a line too many": "GET /info HTTP/1.1\r\nHost: d\r\n GET: /x\r\n\r\n",
    "no HTTP": "\x16\x03\x01\r\n\r\n",
    "a NUL": f"POST /containers/{OURS}\0/start HTTP/1.1\r\nHost: d\r\n\r\n",
}


@pytest.mark.parametrize(("method", "target"), CALLS)
async def test_a_call_that_is_not_on_the_list_is_refused(
    door: Door, docker: FakeDocker, method: str, target: str
) -> None:
    for version in ("", "/v1.45"):
        status, told = await door.ask(method, f"{version}{target}")
        assert status in (400, 403), told
        assert told["message"]
    assert docker.reached == []


@pytest.mark.parametrize("path", PATHS)
async def test_a_path_that_is_another_s_name_is_refused(
    door: Door, docker: FakeDocker, path: str
) -> None:
    line = f"POST {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n"
    answer = await door.raw(line.encode("latin-1"))
    assert answer.split(b" ")[1] in (b"400", b"403"), answer
    assert docker.reached == []


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_request_that_may_be_read_in_two_ways_is_refused(
    door: Door, docker: FakeDocker, name: str
) -> None:
    answer = await door.raw(REQUESTS[name].encode("latin-1"))
    assert answer.split(b" ")[1] in (b"400", b"403", b"413"), answer
    assert len(re.findall(rb"(?m)^HTTP/1", answer)) == 1, (
        "what was not read was taken for a request"
    )
    assert docker.reached == []


@pytest.mark.parametrize(
    ("request_", "header"),
    [
        ("chunked", "Transfer-Encoding"),
        ("upgrade", "Upgrade"),
        ("expect", "Expect"),
        ("compressed", "Content-Encoding"),
        ("connection names a header", "Connection"),
    ],
)
async def test_a_header_that_is_refused_is_named(door: Door, request_: str, header: str) -> None:
    answer = await door.raw(REQUESTS[request_].encode())
    assert f"the header {header}".encode() in answer


async def test_no_header_of_the_client_goes_on(door: Door, docker: FakeDocker) -> None:
    """Among them X-Registry-Auth, which would send a key to a registry."""
    headers = {"X-Registry-Auth": "e30=", "X-Forwarded-For": "1", "Cookie": "a=b"}
    await door.ask("POST", f"/images/create?fromImage={IMAGE}", headers=headers)
    assert {"X-Registry-Auth", "X-Forwarded-For", "Cookie"}.isdisjoint(docker.headers)
    assert "Host" in docker.headers


async def test_a_refusal_names_what_and_why(door: Door) -> None:
    _, told = await door.ask("POST", "/containers/database/stop")
    assert told == {"message": "the container 'database' is no engine of variet-brain"}
    _, told = await door.ask("DELETE", f"/containers/{OURS}?v=1")
    assert told == {"message": "v=1 is not allowed: volumes are not the engines' own"}
