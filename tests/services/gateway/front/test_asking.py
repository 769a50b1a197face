"""What a request asks for, and what is said of one that cannot be understood."""

from io import BytesIO
from typing import Any

import aiohttp
import orjson
import pytest

from services.gateway.front.body import asked_of
from services.gateway.front.routes import POSTS
from services.gateway.gate import Refused
from tests.services.gateway.front.byte_engine import Got, Pipe
from tests.services.gateway.front.conftest import Front, a_front


async def ask(
    front: Front, body: bytes, path: str = "/v1/chat/completions", **headers: str
) -> tuple[int, Any]:
    sent = {"Content-Type": "application/json", **headers}
    async with front.http.post(front.url(path), data=body, headers=sent) as answer:
        return answer.status, orjson.loads(await answer.read())


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "bad_json"),
        (b"{", "bad_json"),
        (b"[]", "bad_json"),
        (b'"fast"', "bad_json"),
        (b"null", "bad_json"),
        (b'{"model":"fast"}x', "bad_json"),
        (b'{"model":"fa\x00st"}', "bad_json"),
        (b'{"model":"\xff"}', "bad_json"),
        ('{"model":"fast"}'.encode("utf-16"), "bad_json"),
        (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, "bad_json"),
        (b'{"model":1}', "bad_model"),
        (b'{"model":["fast"]}', "bad_model"),
        (b'{"model":{"a":1}}', "bad_model"),
        (b"{}", "no_model"),
        (b'{"model":null}', "no_model"),
        (b'{"model":""}', "no_model"),
    ],
)
async def test_a_body_that_cannot_be_understood_is_a_400(
    front: Front, body: bytes, code: str
) -> None:
    status, answer = await ask(front, body)
    assert status == 400
    assert answer["error"]["code"] == code
    assert answer["error"]["type"] == "invalid_request_error"
    assert front.gate.entered == []


@pytest.mark.parametrize(
    "model", ["gpt-4", "FAST", "fast ", "../small", "fast\u0000", "small\n", "x" * 1_000_000]
)
async def test_an_unknown_model_is_a_404_that_lists_the_known(front: Front, model: str) -> None:
    status, answer = await ask(front, orjson.dumps({"model": model}))
    assert status == 404
    assert answer["error"]["code"] == "model_not_found"
    for name in ("fast", "small", "clever", "default"):
        assert name in answer["error"]["remedy"]
    assert "words" not in answer["error"]["remedy"]
    assert len(orjson.dumps(answer)) < 2_000


async def test_a_missing_model_lists_the_known(front: Front) -> None:
    _, answer = await ask(front, b"{}", "/v1/embeddings")
    assert answer["error"]["remedy"] == "Ask for one of: words."


@pytest.mark.parametrize(
    ("path", "model", "status"),
    [
        ("/v1/chat/completions", "words", 404),
        ("/v1/embeddings", "fast", 404),
        ("/v1/embeddings", "words", 200),
        ("/v1/rerank", "words", 404),
        ("/v1/rerank", "order", 200),
        ("/v1/chat/completions", "kinds", 200),
        ("/v1/completions", "clever", 200),
        ("/v1/audio/speech", "mouth", 200),
        ("/v1/audio/speech", "ears", 404),
    ],
)
async def test_a_route_serves_the_models_of_its_kind(
    front: Front, path: str, model: str, status: int
) -> None:
    assert (await ask(front, orjson.dumps({"model": model}), path))[0] == status


@pytest.mark.parametrize(
    ("model", "engine"),
    [
        ("fast", "small"),
        ("balanced", "large"),
        ("deep", "thinker"),
        ("clever", "large"),
        ("default", "small"),
        ("large", "large"),
        ("some/thinker", "thinker"),
    ],
)
async def test_tiers_aliases_and_ids_lead_to_their_engine(
    front: Front, model: str, engine: str
) -> None:
    async with front.chat(model=model) as answer:
        assert answer.headers["X-Variet-Model"] == engine
    assert front.gate.entered[0][0] == engine


def form(*parts: tuple[str, bytes], boundary: str = "b0undary") -> bytes:
    made = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + value + b"\r\n"
        for head, value in parts
    )
    return made + f"--{boundary}--\r\n".encode()


FILE = ('name="file"; filename="a.wav"\r\nContent-Type: audio/wav', b"RIFF\x00\xff" * 1_000)
FORM = "multipart/form-data; boundary=b0undary"


@pytest.mark.parametrize(
    "parts", [(FILE, ('name="model"', b"ears")), (('name="model"', b"ears"), FILE)]
)
@pytest.mark.parametrize("route", ["transcriptions", "translations"])
async def test_the_model_of_a_form_is_found_wherever_it_stands(
    front: Front, parts: tuple[tuple[str, bytes], ...], route: str
) -> None:
    async def answer(got: Got, pipe: Pipe) -> None:
        await pipe.whole(b'{"text":"Hello"}')

    front.engine.answer = answer
    body = form(*parts)
    status, _ = await ask(front, body, f"/v1/audio/{route}", **{"Content-Type": FORM})
    assert status == 200
    got = front.engine.got[0]
    assert got.body == body
    assert got.headers["content-type"] == FORM
    assert got.path == f"/v1/audio/{route}"


async def test_a_form_of_aiohttps_own_making_is_understood(front: Front) -> None:
    data = aiohttp.FormData()
    data.add_field("file", b"RIFF", filename='model"; name="model', content_type="audio/wav")
    data.add_field("model", "ears")
    async with front.http.post(front.url("/v1/audio/transcriptions"), data=data) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        (FORM, form(FILE), "no_model"),
        (FORM, b"", "no_model"),
        (FORM, b"--b0undary", "no_model"),
        (FORM, b"--b0undary\r\n\r\n", "no_model"),
        (FORM, form(('name="model"', b"x" * 10_000)), "model_not_found"),
        (FORM, form(('name="x"; filename="y"', b'\r\nname="model"\r\n\r\nears')), "no_model"),
        ("multipart/form-data", form(FILE), "bad_form"),
        ("multipart/form-data; boundary=", form(FILE), "bad_form"),
        ("application/json", b'{"model":"ears"}', "bad_form"),
        ("text/plain; boundary=b0undary", form(('name="model"', b"ears")), "bad_form"),
    ],
)
async def test_a_form_that_cannot_be_understood_is_refused(
    front: Front, kind: str, body: bytes, code: str
) -> None:
    status, answer = await ask(front, body, "/v1/audio/transcriptions", **{"Content-Type": kind})
    assert status in (400, 404)
    assert answer["error"]["code"] == code
    assert front.gate.entered == []


def test_a_form_of_many_empty_parts_ends() -> None:
    body = b"--b\r\n\r\n\r\n" * 20_000
    route = POSTS["/v1/audio/transcriptions"]
    assert asked_of(route, body, "multipart/form-data; boundary=b").model is None


async def test_a_body_is_bounded_whether_it_tells_its_length_or_not() -> None:
    async with a_front(gateway_max_body_mib=1) as front:

        async def pieces() -> Any:
            for _ in range(40):
                yield b"x" * 65_536

        for data in (BytesIO(bytes(2**20 + 1)), pieces()):
            url = front.url("/v1/chat/completions")
            async with front.http.post(url, data=data) as answer:
                assert answer.status == 413
                assert "GATEWAY_MAX_BODY_MIB" in (await answer.json())["error"]["remedy"]
        assert front.gate.entered == []
        async with front.chat() as answer:
            assert answer.status == 200


async def test_a_compressed_body_is_refused_and_not_unpacked(front: Front) -> None:
    status, answer = await ask(front, b"\x1f\x8b\x08", **{"Content-Encoding": "gzip"})
    assert status == 415
    assert answer["error"]["code"] == "content_encoding"


@pytest.mark.parametrize(("given", "priority"), [(None, "chat"), ("background", "background")])
async def test_the_priority_reaches_the_gate(
    front: Front, given: str | None, priority: str
) -> None:
    headers = {"X-Variet-Priority": given} if given else {}
    async with front.chat(headers={**headers, "X-Request-Id": "r1"}) as answer:
        assert answer.status == 200
    assert front.gate.entered == [("small", priority, "r1")]
    count = {"model": "small", "priority": priority}
    assert front.figure("queue_wait_seconds_count", **count) == 1


async def test_an_unknown_priority_is_refused(front: Front) -> None:
    async with front.chat(headers={"X-Variet-Priority": "highest"}) as answer:
        assert answer.status == 400


@pytest.mark.parametrize(("seconds", "told"), [(None, None), (0.0, "1"), (1.2, "2"), (30.0, "30")])
async def test_a_refusal_keeps_its_status_and_says_when_to_come_again(
    front: Front, seconds: float | None, told: str | None
) -> None:
    front.gate.refusal = Refused(429, "queue_full", "64 wait.", "Ask again.", seconds)
    async with front.chat(stream=True) as answer:
        assert answer.status == 429
        assert answer.headers.get("Retry-After") == told
        error = (await answer.json())["error"]
    assert error == {
        "message": "64 wait.",
        "type": "rate_limit_error",
        "code": "queue_full",
        "param": None,
        "remedy": "Ask again.",
    }
