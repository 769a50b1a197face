"""Who may call what, and what nobody may call."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from contracts.errors import SettingsError
from services.gateway.front import keys
from services.gateway.front.site import Site
from services.gateway.metrics import Metrics
from tests.services.gateway.front.conftest import ADMIN, USER, Front, a_front, settings
from tests.services.gateway.front.memory_gate import MemoryGate

CLOSED = (
    "/sleep",
    "/wake_up",
    "/invocations",
    "/collective_rpc",
    "/tokenize",
    "/detokenize",
    "/props",
    "/slots",
    "/slots/0",
    "/models/load",
    "/v1/responses",
    "/v1/messages",
    "/v1/load_lora_adapter",
    "/v1/chat/completions/control",
    "/v1/chat/completions/",
    "/v1/chat/../../sleep",
    "/v1//chat/completions",
    "/v1/%63hat/completions",
    "/v1/chat%2fcompletions",
    "/v1/chat/completions;x",
    "/v1/chat/completions%00",
    "/chat/completions",
    "/V1/chat/completions",
)


async def raw(front: Front, request: bytes) -> bytes:
    """What is answered to these bytes until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", front.site.port)
    writer.write(request)
    await writer.drain()
    try:
        async with asyncio.timeout(30):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_nothing_but_the_listed_routes_reaches_an_engine(front: Front, method: str) -> None:
    for path in CLOSED:
        answer = await raw(
            front,
            f"{method} {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {USER}\r\n"
            'Connection: close\r\nContent-Length: 16\r\n\r\n{"model":"fast"}'.encode(),
        )
        assert answer.split(b" ")[1] == b"404", path
        assert b"Access-Control" not in answer
    assert front.engine.got == []
    assert front.gate.entered == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "TRACE"])
async def test_a_listed_route_takes_no_other_method(front: Front, method: str) -> None:
    async with front.http.request(method, front.url("/v1/chat/completions")) as answer:
        assert answer.status in (404, 405)
    assert front.engine.got == []


async def test_an_unknown_route_has_openais_envelope_under_v1_and_ours_elsewhere(
    front: Front,
) -> None:
    async with front.http.post(front.url("/v1/responses"), json={}) as answer:
        error = (await answer.json())["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] is None
    async with front.http.post(front.url("/sleep"), json={}) as answer:
        assert set((await answer.json())["error"]) == {"code", "message", "remedy"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {USER}x"},
        {"Authorization": f"Basic {USER}"},
        {"Authorization": USER},
        {"Authorization": "Bearer \xff\xfe"},
        {"X-Api-Key": USER},
        {"Cookie": f"Authorization=Bearer {USER}"},
    ],
)
async def test_without_the_key_nothing_is_told(front: Front, headers: Mapping[str, str]) -> None:
    async with aiohttp.ClientSession() as http:
        for method, path in (
            ("POST", "/v1/chat/completions"),
            ("GET", "/v1/models"),
            ("GET", "/tiers"),
            ("GET", "/metrics"),
            ("GET", "/v1/nothing"),
        ):
            async with http.request(method, front.url(path), headers=headers, data=b"{}") as answer:
                assert answer.status == 401, path
                assert answer.headers["WWW-Authenticate"] == "Bearer"
                assert USER not in await answer.text()
    assert front.gate.entered == []


async def test_the_admins_key_may_do_what_the_users_may(front: Front) -> None:
    async with front.admin("POST", "/v1/chat/completions", json={"model": "fast"}) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("command", ["load", "unload", "pin", "lock"])
async def test_commands_are_the_admins(front: Front, command: str) -> None:
    async with front.http.post(front.url(f"/tiers/fast/{command}")) as answer:
        assert answer.status == 403
    url = front.url(f"/tiers/fast/{command}")
    async with aiohttp.ClientSession() as http, http.post(url) as answer:
        assert answer.status == 401
    assert (front.gate.switched, front.gate.loads) == ([], [])


async def test_reload_and_logs_are_the_admins(front: Front) -> None:
    async with front.http.post(front.url("/reload")) as answer:
        assert answer.status == 403
    async with front.http.get(front.url("/tiers/fast/logs")) as answer:
        assert answer.status == 403


async def test_without_an_admins_key_commands_are_closed_and_say_how_to_open_them() -> None:
    async with a_front(gateway_admin_key=None) as front:
        for path in ("/tiers/fast/load", "/reload"):
            async with front.http.post(front.url(path)) as answer:
                assert answer.status == 403
                assert "GATEWAY_ADMIN_KEY" in (await answer.json())["error"]["remedy"]
    assert front.gate.loads == []


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::"])
def test_off_loopback_the_gateway_does_not_start_without_a_key(host: str) -> None:
    async def start() -> None:
        site = Site(MemoryGate(), settings(gateway_host=host, gateway_api_key=None), Metrics())
        await site.start()

    with pytest.raises(SettingsError, match=f"GATEWAY_HOST={host}") as error:
        asyncio.run(start())
    assert "GATEWAY_API_KEY" in error.value.remedy


async def test_a_port_that_is_taken_is_named(front: Front) -> None:
    taken = settings(gateway_port=front.site.port)
    with pytest.raises(SettingsError, match=f"GATEWAY_PORT={front.site.port}"):
        await Site(MemoryGate(), taken, Metrics()).start()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "["}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost:8000", "Origin": "http://localhost:8000"}, 200),
        ({"Host": "localhost:8000", "Origin": "http://localhost:8001"}, 403),
    ],
)
async def test_without_a_key_a_web_page_cannot_call(headers: dict[str, str], status: int) -> None:
    async with a_front(gateway_api_key=None) as front:
        async with front.chat(headers=headers) as answer:
            assert answer.status == status
        async with front.http.get(front.url("/v1/models"), headers=headers) as answer:
            assert answer.status == status


async def test_with_a_key_any_name_of_the_machine_will_do(front: Front) -> None:
    async with front.chat(headers={"Host": "brain.lan:8000"}) as answer:
        assert answer.status == 200


async def test_health_and_readiness_need_no_key_and_load_nothing(front: Front) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.get(front.url("/health")) as answer:
            assert answer.status == 200
        async with http.get(front.url("/ready")) as answer:
            assert answer.status == 200
        for path in ("/health", "/ready"):
            async with http.head(front.url(path)) as answer:
                assert (answer.status, await answer.read()) == (200, b"")
        front.gate.is_ready = False
        async with http.get(front.url("/health")) as answer:
            assert answer.status == 200
        async with http.get(front.url("/ready")) as answer:
            assert answer.status == 503
            assert (await answer.json())["error"]["code"] == "not_ready"
    assert (front.gate.entered, front.gate.loads) == ([], [])


async def test_metrics_are_prometheus_text(front: Front) -> None:
    async with front.chat() as answer:
        await answer.read()
    async with front.http.get(front.url("/metrics")) as answer:
        text = await answer.text()
        assert answer.headers["Content-Type"].startswith("text/plain")
    assert 'variet_gateway_requests_total{model="small",route="chat",status="200"} 1.0' in text


def hostile() -> dict[str, Any]:
    start = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {USER}\r\n"
    body = '{"model":"fast"}'
    return {
        "two lengths": f"{start}Content-Length: 16\r\nContent-Length: 5\r\n\r\n{body}",
        "length and chunks": f"{start}Content-Length: 16\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        "\r\n",
        "negative length": f"{start}Content-Length: -1\r\n\r\n{body}",
        "length with a sign": f"{start}Content-Length: +16\r\n\r\n{body}",
        "a folded header": f"{start}X: a\r\n b\r\nContent-Length: 16\r\n\r\n{body}",
        "a space before the colon": f"{start}Content-Length : 16\r\n\r\n{body}",
        "a bare line end in a header": f"{start}X: a\nContent-Length: 16\r\n\r\n{body}",
        "a NUL in a header": f"{start}X: a\0b\r\nContent-Length: 16\r\n\r\n{body}",
        "a huge header": f"{start}X: {'x' * 200_000}\r\nContent-Length: 16\r\n\r\n{body}",
        "many headers": start + "".join(f"X{n}: 1\r\n" for n in range(500)) + f"\r\n{body}",
        "a huge path": f"POST /v1/{'x' * 200_000} HTTP/1.1\r\nHost: a\r\n\r\n",
        "no HTTP": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        "chunks that are none": f"{start}Transfer-Encoding: chunked\r\n\r\nzz\r\n{body}\r\n",
        "an unknown transfer": f"{start}Transfer-Encoding: gzip\r\n\r\n{body}",
        "a path with a space": "POST /v1/chat/completions x HTTP/1.1\r\nHost: a\r\n\r\n",
    }


@pytest.mark.parametrize("name", hostile())
async def test_a_hostile_request_is_refused_and_reaches_no_engine(front: Front, name: str) -> None:
    answer = await raw(front, hostile()[name].encode("latin-1"))
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400", b"HTTP/1.1 404")) or answer == b""
    assert front.engine.got == []
    assert front.gate.total == 0
    async with front.chat() as still:
        assert still.status == 200


async def test_pipelined_requests_are_answered_in_order(front: Front) -> None:
    one = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {USER}\r\n"
        'Content-Length: 16\r\n\r\n{"model":"fast"}'
    )
    last = "GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answer = await raw(front, (one * 3 + last).encode())
    assert answer.count(b"HTTP/1.1 200 OK") == 4
    assert answer.endswith(b'{"status":"ok"}')
    assert len(front.engine.got) == 3


async def test_a_client_that_asks_whether_to_go_on_is_told_to(front: Front) -> None:
    answer = await raw(
        front,
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {USER}\r\n"
        'Expect: 100-continue\r\nConnection: close\r\nContent-Length: 16\r\n\r\n{"model":"fast"}'
        .encode(),
    )  # fmt: skip
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


async def test_no_header_of_ours_can_be_broken_in_two(front: Front) -> None:
    body = '{"model":"no\\r\\nSet-Cookie: c"}'
    answer = await raw(
        front,
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {USER}\r\n"
        "X-Request-Id: a%0d%0aSet-Cookie: b\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode(),
    )
    assert answer.split(b" ")[1] == b"404"
    assert b"\r\nSet-Cookie" not in answer


def test_keys_are_compared_in_constant_time() -> None:
    """Held by reading the code: no other comparison of a secret stands in it."""
    text = Path(keys.__file__).read_text("utf-8")
    assert text.count("compare_digest(") == 2
    assert "== secret" not in text
    assert ADMIN not in text
