"""The routes that tell of the engines and command them, and the list of models."""

from typing import Any

import orjson
import pytest

from contracts.errors import SettingsError
from contracts.tiers import TiersStatus
from services.gateway.gate import Refused
from tests.services.gateway.front.conftest import Front, until


async def told(request: Any) -> tuple[int, Any]:
    async with request as answer:
        return answer.status, orjson.loads(await answer.read())


async def test_tiers_tells_how_all_engines_stand(front: Front) -> None:
    async with front.chat() as answer:
        await answer.read()
    for request in (front.http.get(front.url("/tiers")), front.admin("GET", "/tiers")):
        status, body = await told(request)
        assert status == 200
        tiers = TiersStatus.model_validate(body)
        assert tiers.default == "small"
        assert {engine.name: engine.tokens_per_s for engine in tiers.engines}["small"] == 41.5


@pytest.mark.parametrize("name", ["fast", "small", "default"])
async def test_a_load_answers_when_the_engine_is_there(front: Front, name: str) -> None:
    status, body = await told(front.admin("POST", f"/tiers/{name}/load"))
    assert status == 200
    assert (body["name"], body["state"]) == ("small", "ready")
    assert front.gate.loads == ["small"]


def events(body: bytes) -> list[tuple[str, Any]]:
    lines = [event.split(b"\n", 1) for event in body.strip().split(b"\n\n")]
    return [
        (name.removeprefix(b"event: ").decode(), orjson.loads(data.removeprefix(b"data: ")))
        for name, data in lines
    ]


async def test_a_load_can_be_watched(front: Front) -> None:
    headers = {"Accept": "text/event-stream"}
    async with front.admin("POST", "/tiers/fast/load", headers=headers) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        seen = events(await answer.read())
    assert [name for name, _ in seen] == ["progress", "progress", "done"]
    assert [data["phase"] for _, data in seen[:2]] == ["stop", "start"]
    assert seen[-1][1]["name"] == "small"


async def test_a_watched_load_that_fails_ends_with_the_error(front: Front) -> None:
    front.gate.refusal = Refused(503, "no_memory", "It needs 9 MiB, 8 are free.", "Unload one.")
    headers = {"Accept": "text/event-stream"}
    async with front.admin("POST", "/tiers/fast/load", headers=headers) as answer:
        seen = events(await answer.read())
    assert seen[-1][0] == "error"
    assert seen[-1][1]["code"] == "no_memory"
    status, body = await told(front.admin("POST", "/tiers/fast/load"))
    assert status == 503
    assert set(body["error"]) == {"code", "message", "remedy"}


@pytest.mark.parametrize(
    ("body", "on"), [(b"", True), (b"{}", True), (b'{"on":true}', True), (b'{"on":false}', False)]
)
@pytest.mark.parametrize("command", ["pin", "lock"])
async def test_a_switch_is_on_unless_it_says_off(
    front: Front, command: str, body: bytes, on: bool
) -> None:
    status, _ = await told(front.admin("POST", f"/tiers/deep/{command}", data=body))
    assert status == 200
    assert front.gate.switched == [(command, "thinker", on)]


@pytest.mark.parametrize("body", [b"{", b'{"on":"maybe"}', b'{"off":true}', b"[]"])
async def test_a_switch_that_is_none_switches_nothing(front: Front, body: bytes) -> None:
    status, answer = await told(front.admin("POST", "/tiers/deep/pin", data=body))
    assert (status, answer["error"]["code"]) == (400, "bad_switch")
    assert front.gate.switched == []


async def test_an_unload_is_asked_of_the_gate_and_its_refusal_told(front: Front) -> None:
    assert (await told(front.admin("POST", "/tiers/fast/unload")))[0] == 200
    assert front.gate.switched == [("unload", "small", True)]
    front.gate.refusal = Refused(409, "pinned", "small is pinned.", "Let it go first.")
    status, body = await told(front.admin("POST", "/tiers/fast/unload"))
    assert (status, body["error"]["code"]) == (409, "pinned")


@pytest.mark.parametrize("name", ["nothing", "..", "%2e%2e", "fast%2Fload", "x" * 5_000])
async def test_an_unknown_tier_lists_the_known(front: Front, name: str) -> None:
    from yarl import URL

    url = URL(front.url(f"/tiers/{name}/load"), encoded=True)
    async with front.http.post(url, headers={"Authorization": "Bearer x"}) as answer:
        assert answer.status in (401, 404)
    status, body = await told(front.admin("POST", f"/tiers/{name.replace('.', '_')}/load"))
    assert status == 404
    if body["error"]["code"] == "unknown_tier":
        assert "balanced" in body["error"]["remedy"]
    assert front.gate.loads == []


async def test_a_log_is_text_and_can_be_followed(front: Front) -> None:
    async with front.admin("GET", "/tiers/fast/logs") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert await answer.read() == b"one\ntwo\n"
    front.gate.logs_closed = False
    async with front.admin("GET", "/tiers/fast/logs?follow=1") as answer:
        assert await answer.content.readexactly(8) == b"one\ntwo\n"
        assert not front.gate.logs_closed
    await until(lambda: front.gate.logs_closed)


async def test_a_reload_tells_what_changed_or_what_is_wrong(front: Front) -> None:
    status, body = await told(front.admin("POST", "/reload"))
    assert (status, body) == (200, {"added": [], "changed": ["small"], "removed": []})
    front.gate.reload_error = SettingsError("bad_manifest", "models[0].id=X: no.", "Correct it.")
    status, body = await told(front.admin("POST", "/reload"))
    assert (status, body["error"]["code"]) == (422, "bad_manifest")


async def test_every_name_is_listed_with_its_window_and_its_engine(front: Front) -> None:
    front.gate.contexts = {"small": 2_048}
    status, body = await told(front.http.get(front.url("/v1/models")))
    assert status == 200
    assert body["object"] == "list"
    items = {item["id"]: item for item in body["data"]}
    assert set(items) >= {"default", "fast", "balanced", "deep", "small", "clever", "words"}
    fast = items["fast"]
    assert fast.pop("created") > 0
    assert fast == {
        "id": "fast",
        "object": "model",
        "owned_by": "variet",
        "max_model_len": 2_048,
        "meta": {"n_ctx": 2_048},
        "variet": {
            "engine": "small",
            "model": "small",
            "kind": "chat",
            "state": "ready",
            "tiers": ["fast"],
            "needs_mib": {"ram": 100},
        },
    }
    assert items["default"]["variet"] == fast["variet"]
    assert items["words"]["variet"]["kind"] == "embed"


@pytest.mark.parametrize("name", ["fast", "some/thinker", "some%2Fthinker"])
async def test_one_model_can_be_asked_for(front: Front, name: str) -> None:
    status, body = await told(front.http.get(front.url(f"/v1/models/{name}")))
    assert status == 200
    assert body["id"] in ("fast", "some/thinker")


async def test_an_unknown_one_is_a_404_that_lists_the_known(front: Front) -> None:
    status, body = await told(front.http.get(front.url("/v1/models/gpt-4")))
    assert status == 404
    assert body["error"]["code"] == "model_not_found"
    assert "fast" in body["error"]["remedy"]
