"""Who may call: on loopback no web page, elsewhere nobody without a key, and each their own."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.types import Message, Receive, Scope, Send

from contracts.errors import SettingsError
from contracts.settings import Settings
from orchestrator.api.app import create_app
from orchestrator.api.auth import MAX_BODY_BYTES, Gate, Key, load_keys
from tests.support.hands import Hands, hands
from tests.support.probe_tools import Probe
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripted_reply import script

OWNER = "owner-0123456789abcdef"
ANN = "ann-0123456789abcdef"
BOT = "bot-0123456789abcdef"
KEYS = f"ann: {{key: {ANN}}}\nbot: {{key: {BOT}, surface: true}}\n"
OPEN = {"/", "/health", "/ready"}
CHANGE = {"tool_calls": [{"name": "change", "arguments": {"text": "a"}}]}
PLACES = dict.fromkeys(("run_id", "thread_id", "approval_id", "job_id", "name"), "x")

# A header, its value (PORT is the server's own), and how a call with it is answered.
CALLERS = [
    ("host", "127.0.0.1:PORT", 200),
    ("host", "localhost:PORT", 200),
    ("host", "[::1]:PORT", 200),
    ("host", "evil.example", 403),
    ("host", "evil.example:PORT", 403),
    ("host", "127.0.0.1.evil.example", 403),
    ("host", "10.0.0.1:PORT", 403),
    ("host", "[::1", 403),
    ("host", "", 403),
    ("origin", "http://127.0.0.1:PORT", 200),
    ("origin", "http://127.0.0.1:1", 403),
    ("origin", "http://localhost:PORT", 403),
    ("origin", "http://127.0.0.1:PORT.evil.example", 403),
    ("origin", "http://evil.example", 403),
    ("origin", "null", 403),
]


def bearer(key: str, user: str | None = None) -> dict[str, str]:
    named = {"x-variet-user": user} if user is not None else {}
    return {"authorization": f"Bearer {key}"} | named


@pytest.fixture
async def keyed(engine: ScriptedEngine, probe: Probe, tmp_path: Path) -> AsyncIterator[Hands]:
    (tmp_path / "keys.yaml").write_text(KEYS)
    settings: dict[str, Any] = {
        "variet_api_key": SecretStr(OWNER),
        "variet_keys_file": tmp_path / "keys.yaml",
    }
    async with hands(engine.url, tmp_path / "state", probe.server, **settings) as running:
        yield running


def routes(variet: Hands) -> list[tuple[str, str]]:
    """Every route with its methods; the documentation's and one that is not there, too."""
    paths: dict[str, dict[str, Any]] = create_app(variet.orchestrator).openapi()["paths"]
    declared = [(m.upper(), path.format_map(PLACES)) for path, ms in paths.items() for m in ms]
    others = ("/", "/docs", "/openapi.json", "/nothing", "/v1/nothing")
    return [*declared, *(("GET", path) for path in others)]


async def test_a_web_page_cannot_call_a_loopback_server(variet: Hands) -> None:
    port = variet.url.rsplit(":", 1)[1]
    for name, value, status in CALLERS:
        headers = {name: value.replace("PORT", port)}
        for method, path in (("GET", "/threads"), ("GET", "/"), ("POST", "/runs/run_x/stop")):
            answer = await variet.client.request(method, path, headers=headers)
            allowed = 404 if method == "POST" else 200
            expected = 403 if status == 403 else allowed
            assert (name, value, answer.status_code) == (name, value, expected)
            if status == 403:
                assert answer.json()["error"]["code"] in ("bad_host", "bad_origin")


async def test_on_loopback_any_key_will_do_but_nobody_names_a_user(variet: Hands) -> None:
    assert (await variet.client.get("/threads", headers=bearer("none"))).status_code == 200
    named = await variet.client.get("/threads", headers={"x-variet-user": "eve"})
    assert (named.status_code, named.json()["error"]["code"]) == (403, "not_a_surface")


async def test_without_a_key_every_route_but_three_answers_401(keyed: Hands) -> None:
    for method, path in routes(keyed):
        for headers in ({}, bearer(OWNER[:-1]), bearer(OWNER + "x"), bearer("x")):
            answer = await keyed.client.request(method, path, headers=headers)
            assert (path, answer.status_code) == (path, 200 if path in OPEN else 401)
            if path not in OPEN:
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.json()["error"]["code"] == "unauthorized"


@pytest.mark.parametrize("place", ["query", "x-api-key", "api-key", "cookie", "basic", "bare"])
async def test_a_key_counts_only_as_a_bearer_key(keyed: Hands, place: str) -> None:
    if place == "query":
        answer = await keyed.client.get(f"/threads?key={OWNER}&api_key={OWNER}&token={OWNER}")
    else:
        headers = {
            "x-api-key": {"x-api-key": OWNER},
            "api-key": {"api-key": OWNER},
            "cookie": {"cookie": f"authorization=Bearer {OWNER}; key={OWNER}"},
            "basic": {"authorization": f"Basic {OWNER}"},
            "bare": {"authorization": OWNER},
        }
        answer = await keyed.client.get("/threads", headers=headers[place])
    assert answer.status_code == 401


async def test_a_right_key_is_let_in_whatever_the_case_of_the_scheme(keyed: Hands) -> None:
    for key in (OWNER, ANN, BOT):
        assert (await keyed.client.get("/threads", headers=bearer(key))).status_code == 200
    lower = await keyed.client.get("/threads", headers={"authorization": f"bearer {OWNER}"})
    assert lower.status_code == 200


async def test_a_key_does_not_lift_the_rules_of_loopback(keyed: Hands) -> None:
    page = await keyed.client.get(
        "/threads", headers=bearer(OWNER) | {"origin": "http://evil.example"}
    )
    assert page.status_code == 403


async def test_health_gives_no_details_without_a_key(keyed: Hands) -> None:
    bare = (await keyed.client.get("/health")).json()
    assert bare["checks"] == {}
    full = (await keyed.client.get("/health", headers=bearer(OWNER))).json()
    assert full["status"] == bare["status"]
    assert "engine" in full["checks"]


async def test_only_a_surface_names_its_users(keyed: Hands) -> None:
    for headers in (bearer(ANN, "bob"), bearer(OWNER, "bob"), bearer(ANN, "")):
        refused = await keyed.client.get("/threads", headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_a_surface")
    for user in ("", "x" * 129):
        assert (await keyed.client.get("/threads", headers=bearer(BOT, user))).status_code == 403
    assert (await keyed.client.get("/threads", headers=bearer(BOT, "bob"))).status_code == 200


async def test_what_belongs_to_others_is_not_there(keyed: Hands, probe: Probe) -> None:
    mine, client = bearer(BOT, "bob"), keyed.client
    asked = await client.post("/chat", json={"message": script(CHANGE)}, headers=mine)
    thread, run = asked.json()["thread_id"], asked.json()["run_id"]
    approval = asked.json()["approvals"][0]["id"]
    said = {"model": "variet", "messages": [{"role": "user", "content": f"/approve {approval}"}]}
    calls: list[tuple[str, str, Any]] = [
        ("GET", f"/threads/{thread}", None),
        ("DELETE", f"/threads/{thread}", None),
        ("POST", "/chat", {"message": "hi", "thread_id": thread}),
        ("POST", "/chat", {"message": "hi", "thread_id": thread, "on_busy": "interrupt"}),
        ("POST", "/v1/chat/completions", said),
        ("POST", "/v1/chat/completions", said | {"metadata": {"thread_id": thread}}),
        ("GET", f"/runs/{run}", None),
        ("GET", f"/runs/{run}/events", None),
        ("GET", f"/runs/{run}/exchanges", None),
        ("POST", f"/runs/{run}/stop", None),
        ("POST", f"/approvals/{approval}", {"decision": "approve"}),
    ]
    for other in (bearer(BOT, "eve"), bearer(BOT), bearer(ANN), bearer(OWNER)):
        for method, path, body in calls:
            answer = await client.request(method, path, json=body, headers=other)
            assert (path, answer.status_code) == (path, 404)
        for path in ("/threads", "/runs", "/approvals"):
            assert (await client.get(path, headers=other)).json()["items"] == []
        pruned = await client.delete("/threads?older_than_days=0", headers=other)
        assert pruned.json() == {"deleted": 0}
    assert probe.calls["change"] == 0
    assert (await client.get(f"/runs/{run}", headers=mine)).json()["status"] == "awaiting_approval"


async def test_a_body_over_the_limit_is_refused_with_and_without_its_length(
    variet: Hands,
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 65_536 + 2):
            yield b" " * 65_536

    headers = {"content-type": "application/json"}
    for path in ("/chat", "/v1/chat/completions"):
        told = await variet.client.post(path, content=b" " * (MAX_BODY_BYTES + 1), headers=headers)
        assert (told.status_code, told.json()["error"]["code"]) == (413, "too_large")
        chunked = await variet.client.post(path, content=pieces(), headers=headers)
        assert (chunked.status_code, chunked.json()["error"]["code"]) == (413, "too_large")
    assert (await variet.ask(script({"text": "Still here."})))["answer"] == "Still here."


async def test_a_body_that_never_comes_holds_up_nobody(variet: Hands) -> None:
    host, port = variet.url.removeprefix("http://").split(":")
    _, stuck = await asyncio.open_connection(host, int(port))
    head = f"POST /chat HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
    stuck.write(f"{head}content-length: 1000\r\n\r\n{{".encode())
    await stuck.drain()
    assert (await variet.ask(script({"text": "Hi."})))["answer"] == "Hi."
    stuck.close()


async def test_a_websocket_passes_the_same_gate() -> None:
    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})

    async def knock(*headers: tuple[bytes, bytes]) -> list[Message]:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            return {"type": "websocket.connect"}

        scope: Scope = {"type": "websocket", "path": "/ws/code", "headers": list(headers)}
        await Gate(inner, [Key("owner", OWNER)], loopback=True)(scope, receive, send)
        return sent

    host = (b"host", b"127.0.0.1")
    key = (b"authorization", f"Bearer {OWNER}".encode())
    closed: list[Message] = [{"type": "websocket.close", "code": 1008}]
    assert await knock(host) == closed
    assert await knock(host, key, (b"origin", b"http://evil.example")) == closed
    assert await knock(host, key) == [{"type": "websocket.accept"}]


def settings_of(tmp_path: Path, keys: str | None = None, **more: Any) -> Settings:
    if keys is not None:
        (tmp_path / "keys.yaml").write_text(keys)
        more["variet_keys_file"] = tmp_path / "keys.yaml"
    return Settings(_env_file=None, state_dir=tmp_path, **more)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ("", "holds no keys"),
        ("{}", "holds no keys"),
        ("- a", "holds no keys"),
        ("a: [", "not YAML"),
        ("a: secret-0123456789", "a has no text"),
        ("a: {key: 12345678901234567890}", "a has no text"),
        ("a: {key: short}", "a's key is shorter"),
        ("a: {key: 'ümlaut-0123456789abcdef'}", "a's key has characters"),
        (f"a: {{key: {ANN}, surface: maybe}}", "surface"),
        (f"a: {{key: {ANN}, surfacee: true}}", "surface"),
        (f"bot/ann: {{key: {ANN}}}", "without a slash"),
        (f"5: {{key: {ANN}}}", "no name"),
        (f"a: {{key: {ANN}}}\nb: {{key: {ANN}}}", "b's key is another's"),
        (f"owner: {{key: {ANN}}}", "owner is the name of two"),
    ],
)
def test_a_wrong_keys_file_is_refused_and_no_key_is_told(
    tmp_path: Path, keys: str, named: str
) -> None:
    settings = settings_of(tmp_path, keys, variet_api_key=SecretStr(OWNER))
    with pytest.raises(SettingsError) as error:
        load_keys(settings)
    assert named in error.value.message
    assert "keys.yaml" in error.value.message
    assert "0123456789" not in error.value.message


def test_a_keys_file_that_is_missing_or_binary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml"):
        load_keys(settings_of(tmp_path, variet_keys_file=tmp_path / "nowhere.yaml"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="cannot be read"):
        load_keys(settings_of(tmp_path, variet_keys_file=tmp_path / "binary"))


def test_a_short_key_is_refused_without_being_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as error:
        load_keys(settings_of(tmp_path, variet_api_key=SecretStr("hunter2")))
    assert "VARIET_API_KEY" in error.value.message
    assert "hunter2" not in str(error.value)


def test_an_address_that_others_can_reach_needs_a_key(tmp_path: Path) -> None:
    for address in ("0.0.0.0", "192.168.0.7", "::"):
        with pytest.raises(ValueError, match=f"BIND_ADDR={address}"):
            settings_of(tmp_path, bind_addr=address)
        assert load_keys(
            settings_of(tmp_path, bind_addr=address, variet_api_key=SecretStr(OWNER))
        ) == [Key("owner", OWNER)]


async def test_the_process_refuses_to_start_on_such_an_address(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "BIND_ADDR": "0.0.0.0", "STATE_DIR": str(tmp_path)}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "orchestrator",
        env=environment,
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, told = await process.communicate()
    assert (process.returncode, out) == (1, b"")
    assert b"BIND_ADDR=0.0.0.0" in told
    assert b"VARIET_API_KEY" in told
