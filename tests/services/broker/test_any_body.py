"""Whatever is asked for, what Docker would get is an engine within its bounds, or nothing."""

import copy
import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.broker import ENGINE_IMAGES
from services.broker.body import Create, HostPart, MountPart, read_create
from services.broker.creation import engine_body
from services.broker.refusal import Refusal
from services.broker.routes import read_call
from tests.services.broker.bodies import HOST, NAME, body
from tests.services.broker.safety import breaches

KEYS = st.sampled_from(
    sorted({*Create.model_fields, *HostPart.model_fields, *MountPart.model_fields, "Unknown", ""})
)
WORDS = st.sampled_from(
    [
        *("host", "/", "bridge", "ALL", "SYS_ADMIN", "seccomp=unconfined", "root", "0:0", "nvidia"),
        *("/var/run/docker.sock", "container:x", "sh", "LD_PRELOAD=/x", "--log-file", "/etc/x"),
        *("bind", "volume", "/srv/models", "/models", "/srv/hub", "/data", "x=y", "", "a\0b"),
        *HOST.images.values(),
        *HOST.networks.values(),
        HOST.user,
    ]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=8)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | WORDS, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def changed_bodies(draw: st.DrawFn) -> Any:
    """A good body with up to three changes, each at some place of it."""
    made = body(draw(st.sampled_from(ENGINE_IMAGES)))
    for _ in range(draw(st.integers(0, 3))):
        at = made
        for _ in range(draw(st.integers(0, 3))):
            inner = [v for v in at.values() if isinstance(v, dict) and v]
            if not inner:
                break
            at = draw(st.sampled_from(inner))
        key = draw(st.sampled_from(sorted(at)) | KEYS)
        if draw(st.booleans()):
            at[key] = draw(VALUES)
        elif key in at and isinstance(at[key], list) and at[key]:
            at[key] = [*at[key], draw(VALUES | st.sampled_from(at[key]))]
        elif key in at:
            del at[key]
    return made


@settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(changed_bodies() | VALUES)
def test_any_body_is_refused_or_made_safe(asked: Any) -> None:
    try:
        made = engine_body(read_create(json.dumps(asked).encode()), HOST)
    except Refusal:
        return
    assert breaches(made, NAME, HOST) == []


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    try:
        read_create(data)
    except Refusal:
        return
    raise AssertionError(data)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.sampled_from(["GET", "POST", "DELETE", "HEAD", "PUT"]),
    st.text(st.characters(codec="latin-1"), max_size=60)
    | st.lists(
        st.sampled_from(
            [
                *("/", "/v1.45", "/containers", "/create", "/json", "/images", "/exec", "/start"),
                *("..", "%2e", "?", "&", "force=1", "v=1", "name=x", "/abc", "=", "#", "//"),
                *(f"/{HOST.images['tei']}", f"name={NAME}", "filters={}", "%00"),
            ]
        ),
        max_size=7,
    ).map("".join),
)
def test_any_request_line_is_refused_or_one_of_the_list(method: str, target: str) -> None:
    """What Docker is asked for has no path but the list's, and no escape in it but an image's."""
    try:
        call = read_call(method, target, HOST)
    except Refusal:
        return
    path = call.target("f" * 64)
    assert path.removeprefix("/v1.45").split("/")[1] in (
        *("_ping", "version", "containers", "images", "variet"),
    )
    assert not {"..", "//", "?", "#", "%2e", "exec"} & set(path.split("/"))
    assert "%" not in path.replace("%40", "")
    assert call.query.get("v", "0") == "0"


def test_the_checker_finds_what_it_looks_for() -> None:
    good = engine_body(read_create(json.dumps(body()).encode()), HOST)
    assert breaches(good, NAME, HOST) == []
    bad: list[tuple[str, Any]] = [
        *(("Binds", ["/:/x"]), ("NetworkMode", "host"), ("CapAdd", ["SYS_ADMIN"])),
        *(("Privileged", True), ("Memory", 0), ("SecurityOpt", []), ("PidMode", "host")),
        *(("ReadonlyRootfs", False), ("Tmpfs", {"/run": ""}), ("RestartPolicy", {"Name": "a"})),
        ("Mounts", [{"Type": "bind", "Source": "/", "Target": "/models", "ReadOnly": True}]),
    ]
    for key, value in bad:
        made = copy.deepcopy(good)
        made["HostConfig"][key] = value
        assert breaches(made, NAME, HOST), key
