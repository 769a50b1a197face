"""Which calls run, which are asked about, which never run."""

from pathlib import Path
from typing import Any

import pytest
from mcp.server import MCPServer
from mcp.types import ToolAnnotations

from contracts.errors import SettingsError
from orchestrator.agent.policy import Policy, Traits, load_policy, readonly_values
from tests.support.hands import hands
from tests.support.probe_tools import Probe
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripted_reply import script

READS = Traits(read_only=True)
WRITES = Traits(read_only=False)
SOMETIMES = Traits(readonly_when={"operation": ("list", "read")})


@pytest.mark.parametrize(
    ("traits", "arguments", "rule"),
    [
        (None, {}, "confirm"),
        (READS, {}, "allow"),
        (WRITES, {}, "confirm"),
        (SOMETIMES, {"operation": "list"}, "allow"),
        (SOMETIMES, {"operation": "write"}, "confirm"),
        (SOMETIMES, {"operation": "li"}, "confirm"),
        (SOMETIMES, {"operation": ["list"]}, "confirm"),
        (SOMETIMES, {}, "confirm"),
        (Traits(readonly_when={}), {}, "confirm"),
    ],
)
def test_without_a_rule_only_what_reads_is_allowed(
    traits: Traits | None, arguments: dict[str, Any], rule: str
) -> None:
    verdict = Policy({}).decide("tool", traits, arguments)
    assert verdict.rule == rule
    assert "tool" in verdict.reason


def test_the_owners_rule_comes_before_what_a_tool_says_of_itself() -> None:
    policy = Policy({"look": "deny", "change": "allow", "read": "confirm"})
    assert policy.decide("look", READS, {}).rule == "deny"
    assert policy.decide("change", WRITES, {}).rule == "allow"
    assert policy.decide("read", READS, {}).rule == "confirm"
    assert policy.unmatched(["look", "read", "other"]) == ["change"]


@pytest.mark.parametrize("declared", ["list", ["list"], {"a": "list"}, {"a": [1]}, {"a": None}, 5])
def test_a_readonly_declaration_of_another_form_counts_for_nothing(declared: Any) -> None:
    assert readonly_values(declared) is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("look: yes", "look=True"),
        ("look: permit", "look='permit'"),
        ("look: [allow]", "look=['allow']"),
        ("look:", "look=None"),
        ("- look", "not a mapping"),
        ("look: allow\nlook: deny", "look is there twice"),
        ("5: allow", "5 is not the name"),
        ("look: [", "cannot be read"),
    ],
)
def test_a_wrong_policy_file_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as error:
        load_policy(path)
    assert named in error.value.message
    assert "policy.yaml" in error.value.message
    assert error.value.remedy


def test_a_policy_file_may_be_empty_but_not_missing_or_binary(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    with pytest.raises(SettingsError, match="cannot be read"):
        load_policy(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="cannot be read"):
        load_policy(path)
    path.write_text("# nothing yet\n")
    assert load_policy(path).decide("look", READS, {}).rule == "allow"


async def test_rules_of_the_file_hold_in_runs_and_by_hand(
    engine: ScriptedEngine, probe: Probe, tmp_path: Path
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("change: allow\nlook: deny\nhang: confirm\nlok: deny\n")
    async with hands(engine.url, tmp_path / "s", probe.server, policy_file=path) as variet:
        calls = [{"name": n, "arguments": {"text": "x"}} for n in ("change", "look")]
        answer = await variet.ask(script({"tool_calls": calls}, {"text": "Done."}))
        assert [c["status"] for c in answer["tool_calls"]] == ["finished", "failed"]
        assert answer["tool_calls"][1]["error"]["code"] == "denied"
        asked = await variet.ask(script({"tool_calls": [{"name": "hang"}]}))
        assert asked["approvals"][0]["reason"] == "the policy says confirm for hang"
        for name, status in (("change", 200), ("look", 403), ("hang", 202)):
            arguments = {} if name == "hang" else {"text": "x"}
            done = await variet.client.post(
                "/tools/execute", json={"name": name, "arguments": arguments}
            )
            assert (name, done.status_code) == (name, status)
        assert probe.calls == {"change": 2}
        health = (await variet.client.get("/health")).json()["checks"]["policy"]
        assert health["status"] == "degraded"
        assert "lok" in health["detail"]


async def test_a_tool_that_only_sometimes_reads_is_asked_about_when_it_does_not(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    server = MCPServer("files", log_level="ERROR")

    async def files(operation: str) -> str:
        """Lists or writes."""
        return operation

    server.tool(
        annotations=ToolAnnotations(read_only_hint=False),
        meta={"variet/readonly_when": {"operation": ["list"]}},
    )(files)
    async with hands(engine.url, tmp_path, server) as variet:
        for operation, status in (("list", 200), ("write", 202), ("List", 202)):
            body = {"name": "files", "arguments": {"operation": operation}}
            done = await variet.client.post("/tools/execute", json=body)
            assert (operation, done.status_code) == (operation, status)
