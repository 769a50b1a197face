"""TOOL_SERVERS_FILE: read, checked, and which servers there are then."""

import subprocess
import sys
from pathlib import Path

import pytest

from contracts.errors import SettingsError
from contracts.settings import REPOSITORY, Settings
from orchestrator.agent.tool_transport import Remote
from orchestrator.tool_servers_file import load_tool_servers
from tests.support.no_index import NoIndex

TOKEN = "a-token-for-tests-0123456789"
STACK = REPOSITORY / "services/orchestrator/tools.yaml"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "tools.yaml"
    path.write_text(text)
    return path


def test_servers_are_read_in_the_order_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("B_TOKEN", TOKEN)
    path = written(
        tmp_path,
        "b: {url: 'http://b:8000/mcp', token_env: B_TOKEN, timeout_s: 5}\n"
        "a: {url: 'https://a.example/mcp'}\n",
    )
    assert load_tool_servers(path) == {
        "b": Remote("http://b:8000/mcp", TOKEN, "B_TOKEN", 5.0, f"b in TOOL_SERVERS_FILE={path}"),
        "a": Remote("https://a.example/mcp", said_in=f"a in TOOL_SERVERS_FILE={path}"),
    }


def test_a_token_may_stand_in_the_file_of_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("B_TOKEN", raising=False)
    monkeypatch.setenv("VARIET_ENV_FILE", str(tmp_path / "hands.env"))
    (tmp_path / "hands.env").write_text(f"B_TOKEN={TOKEN}\n")
    path = written(tmp_path, "b: {url: 'http://b:8000/mcp', token_env: B_TOKEN}")
    assert load_tool_servers(path)["b"].token == TOKEN


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("- a", "is not a mapping"),
        ("a: [", "cannot be read"),
        ("a: http://a", "a='http://a' is not a mapping"),
        ("a: {url: x}\na: {url: y}", "a is there twice"),
        ("5: {url: 'http://a'}", "5 is not a name"),
        ("docs: {url: 'http://a'}", "docs is always in the orchestrator"),
        ("a: {}", "a.url=None is not the address"),
        ("a: {url: 'ftp://a'}", "a.url='ftp://a' is not the address"),
        ("a: {url: 'http://a:b/'}", "a.url='http://a:b/' is not the address"),
        ("a: {url: 'http://a', key: k}", "a.key is unknown"),
        ("a: {url: 'http://a', token_env: 5}", "a.token_env=5 is not the name"),
        ("a: {url: 'http://a', token_env: NO_SUCH}", "a.token_env=NO_SUCH: no such variable"),
        ("a: {url: 'http://a', timeout_s: 0}", "a.timeout_s=0 is not a number"),
        ("a: {url: 'http://a', timeout_s: yes}", "a.timeout_s=True is not a number"),
    ],
)
def test_a_wrong_file_is_refused_by_name_key_and_value(
    tmp_path: Path, text: str, named: str
) -> None:
    with pytest.raises(SettingsError) as error:
        load_tool_servers(written(tmp_path, text))
    assert named in error.value.message
    assert f"TOOL_SERVERS_FILE={tmp_path}/tools.yaml" in error.value.message
    assert error.value.remedy


def test_no_error_shows_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "hid\nden")
    for text in (
        "a: {url: 'http://user:hidden@a/mcp'}",
        "a: {url: 'http://a', token_env: A_TOKEN}",
    ):
        with pytest.raises(SettingsError) as error:
            load_tool_servers(written(tmp_path, text))
        assert "den" not in str(error.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load_tool_servers(tmp_path / "none.yaml")


def test_the_stacks_file_names_its_three_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CALIBRATION", "LOGS", "WORKSPACE"):
        monkeypatch.setenv(f"{name}_TOKEN", f"{name}-{TOKEN}")
    servers = load_tool_servers(STACK)
    assert list(servers) == ["calibration", "logs", "workspace"]
    for name, remote in servers.items():
        assert remote.url == f"http://{name}:8000/mcp"
        assert remote.token == f"{name.upper()}-{TOKEN}"


def test_with_a_file_only_the_index_is_asked_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.embedded import tool_servers

    path = written(tmp_path, "logs: {url: 'http://logs:8000/mcp'}")
    named = Settings(_env_file=None, tool_servers_file=path, state_dir=tmp_path)
    assert list(tool_servers(named, NoIndex())) == ["logs", "docs"]
    without = Settings(_env_file=None, state_dir=tmp_path)
    built_in = ["calibration", "logs", "workspace", "docs"]
    assert list(tool_servers(without, NoIndex())) == built_in


def test_the_orchestrator_needs_the_code_of_no_other_tool_server() -> None:
    check = (
        "import sys, orchestrator.embedded\n"
        "found = {m for m in sys.modules if m.startswith('tools.')}\n"
        "assert found == {'tools.docs', 'tools.tool'}, found\n"
    )
    subprocess.run([sys.executable, "-c", check], check=True, cwd=REPOSITORY)
