from pathlib import Path

import pytest

from contracts.deployment import load_deployment
from contracts.errors import SettingsError
from contracts.gateway_settings import load_gateway_settings
from contracts.settings import REPOSITORY, Settings, load_settings
from contracts.settings_reading import env_file


def settings(**values: object) -> Settings:
    return load_settings(_env_file=None, **values)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"max_tokens": "many"}, "MAX_TOKENS=many: "),
        ({"port": 70_000}, "PORT=70000: "),
        ({"openai_compat_url": "brain:8000"}, "OPENAI_COMPAT_URL=brain:8000: has to start with"),
        ({"log_level": "loud", "max_steps": 0}, "MAX_STEPS=0: "),
        ({"bind_addr": "0.0.0.0"}, "BIND_ADDR=0.0.0.0 is not loopback"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(values: dict[str, object], told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(**values)
    assert told in caught.value.message
    assert caught.value.remedy.startswith("Correct it in .env.")


def test_the_remedy_says_what_the_setting_means() -> None:
    with pytest.raises(SettingsError) as caught:
        settings(max_tokens="many", max_steps=0)
    assert "MAX_TOKENS: tokens per engine answer at most." in caught.value.remedy
    assert "MAX_STEPS: engine calls per run at most." in caught.value.remedy
    with pytest.raises(SettingsError) as caught:
        load_deployment(_env_file=None, gpu_mem_util=2)
    assert "GPU_MEM_UTIL: share of each card's memory" in caught.value.remedy


@pytest.mark.parametrize("name", ["variet_api_key", "hf_token", "langfuse_secret_key"])
def test_a_secret_is_named_without_its_value(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(**{name: 123456789})
    assert caught.value.message.startswith(f"{name.upper()}: ")
    assert "123456789" not in caught.value.message


def test_secrets_are_not_in_what_is_printed() -> None:
    assert "hush" not in repr(settings(variet_api_key="hush", hf_token="hush"))


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        settings().port = 1  # type: ignore[misc]


def test_another_file_of_settings_can_be_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PORT", raising=False)
    monkeypatch.delenv("VARIET_ROLE", raising=False)
    other = tmp_path / "brain.env"
    other.write_text("PORT=9100\nVARIET_ROLE=brain\n")
    monkeypatch.setenv("VARIET_ENV_FILE", str(other))
    assert (load_settings().port, load_deployment().variet_role) == (9100, "brain")
    other.write_text("PORT=many\n")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(other) in caught.value.remedy


def test_without_it_settings_come_from_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VARIET_ENV_FILE", "")
    assert env_file() == REPOSITORY / ".env"
    monkeypatch.setenv("VARIET_ENV_FILE", "brain.env")
    assert env_file() == REPOSITORY / "brain.env"


@pytest.mark.parametrize("name", ["openai_compat_key", "embed_key", "variet_api_key"])
@pytest.mark.parametrize("key", ["sesame ", "ses\name", "sésame"])
def test_a_key_that_no_header_can_hold_is_refused_unseen(name: str, key: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(**{name: key})
    assert f"{name.upper()}: has to be ASCII" in caught.value.message
    assert key not in f"{caught.value.message}{caught.value.remedy}"
    with pytest.raises(SettingsError, match="GATEWAY_API_KEY"):
        load_gateway_settings(_env_file=None, gateway_api_key=key)


def test_a_file_that_cannot_be_read_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "my.env"
    monkeypatch.setenv("VARIET_ENV_FILE", str(path))
    path.write_bytes(b"\xff\xfe=1\n")
    for load in (load_settings, load_deployment):
        with pytest.raises(SettingsError, match=f"{path} cannot be read"):
            load()
    path.unlink()
    path.mkdir()
    for load in (load_settings, load_deployment):
        with pytest.raises(SettingsError, match="it is a folder"):
            load()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("brain.local", "is no IP address"),
        ("10.0.0.256", "is no IP address"),
        ("fd00::1", "IPv6"),
        ("0.0.0.0", "no address of one host"),
        ("224.0.0.1", "no address of one host"),
        ("255.255.255.255", "no address of one host"),
    ],
)
def test_an_address_that_the_stacks_cannot_use_is_named(value: str, told: str) -> None:
    for name in ("lan_ip", "brain_ip", "hands_ip"):
        with pytest.raises(SettingsError) as caught:
            load_deployment(_env_file=None, **{name: value})
        assert f"{name.upper()}={value}: " in caught.value.message
        assert told in caught.value.message
    assert load_deployment(_env_file=None, lan_ip="192.168.1.10").lan_ip == "192.168.1.10"
