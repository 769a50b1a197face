from collections.abc import Iterator

import pytest

from cli.doctor.finding import Finding
from cli.doctor.gateway import check_admin_key, check_gateway, check_open_routes
from tests.support.scripted_brain import Brain, scripted_brain

KEY, ADMIN = "Zx9-qT4_mK7wLp2aBc5dEf8g", "Yw8-pS3_nJ6vKo1zAb4cDe7f"


@pytest.fixture
def gateway() -> Iterator[Brain]:
    with scripted_brain(KEY, ADMIN) as running:
        yield running


def base(gateway: Brain) -> str:
    return f"http://127.0.0.1:{gateway.port}"


def asked(gateway: Brain, key: str = KEY) -> dict[str, Finding]:
    return {one.name: one for one in check_gateway(base(gateway), key, "make up")}


def test_it_answers_who_has_the_key_and_nobody_else(gateway: Brain) -> None:
    seen = asked(gateway)
    assert {name: one.status for name, one in seen.items()} == {
        "gateway": "ok",
        "gateway key": "ok",
    }


def test_one_that_asks_for_no_key_is_a_failure(gateway: Brain) -> None:
    gateway.open = {"/v1/models"}
    seen = asked(gateway)
    assert seen["gateway"].status == "ok"
    assert seen["gateway key"].status == "failure"
    assert "anyone on the network" in seen["gateway key"].detail
    routes = check_open_routes(base(gateway))
    assert (routes.status, "/v1/models" in routes.detail) == ("failure", True)


def test_one_with_another_key_was_started_with_another_one(gateway: Brain) -> None:
    seen = asked(gateway, "other" * 8)
    assert (seen["gateway"].status, "make up" in seen["gateway"].remedy) == ("failure", True)


def test_one_that_is_down_names_the_command() -> None:
    (found,) = check_gateway("http://127.0.0.1:9", KEY, "make up")
    assert (found.status, found.remedy) == ("failure", "Start it: make up")


def test_an_engine_in_its_place_leaves_routes_open(gateway: Brain) -> None:
    assert check_open_routes(base(gateway)).status == "ok"
    gateway.open = {"/version"}
    gateway.answers["/version"] = (200, {"version": "0.33.0"})
    found = check_open_routes(base(gateway))
    assert (found.status, "/version" in found.detail) == ("failure", True)


def test_unloading_is_the_admin_s_alone(gateway: Brain) -> None:
    assert check_admin_key(base(gateway), KEY, ADMIN).status == "ok"
    assert "is not set" in check_admin_key(base(gateway), KEY, "").detail
    same = check_admin_key(base(gateway), KEY, KEY)
    assert (same.status, "is the same" in same.detail) == ("failure", True)
    other = check_admin_key(base(gateway), KEY, "other" * 8)
    assert "refuses GATEWAY_ADMIN_KEY (401)" in other.detail
    swapped = check_admin_key(base(gateway), ADMIN, KEY)
    assert "answered 404 to GATEWAY_API_KEY" in swapped.detail
