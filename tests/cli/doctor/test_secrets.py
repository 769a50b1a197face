import os
from pathlib import Path

import pytest

from cli.doctor.finding import Finding
from cli.doctor.secrets import check_file, check_secrets
from cli.host.secret import COPIED, HANDS, LANGFUSE
from contracts.deployment import Deployment
from contracts.errors import SettingsError
from contracts.gateway_settings import GatewaySettings
from contracts.settings import Settings

GOOD = "Zx9-qT4_mK7wLp2aBc5dEf8g"
NEEDED = [name.lower() for name in (*HANDS, *LANGFUSE, *COPIED)]
ENCRYPTION = "0123456789abcdef" * 4


def checked(role: str, **values: str) -> Finding:
    here = Deployment(_env_file=None, variet_role=role, **values)  # type: ignore[arg-type]
    settings = Settings(_env_file=None, **values)  # type: ignore[arg-type]
    gateway = GatewaySettings(_env_file=None, **values)  # type: ignore[arg-type]
    return check_secrets(here, settings, gateway)


def of_hands(**changed: str) -> dict[str, str]:
    values = dict.fromkeys(NEEDED, GOOD)
    url = "http://10.0.0.9:8081/v1"
    return {**values, "embed_url": url, "langfuse_encryption_key": ENCRYPTION, **changed}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NEEDED, "gateway_api_key", "gateway_admin_key", "embed_url"):
        monkeypatch.delenv(name.upper(), raising=False)


def test_secrets_that_are_long_enough_are_well() -> None:
    assert checked("brain", gateway_api_key=GOOD, gateway_admin_key=GOOD).status == "ok"
    assert checked("hands", **of_hands()).status == "ok"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"gateway_api_key": ""}, "GATEWAY_API_KEY is not set"),
        ({"gateway_api_key": "short"}, "GATEWAY_API_KEY has 5 characters"),
        ({"gateway_api_key": "ab" * 20}, "only 2 different characters"),
    ],
)
def test_a_weak_key_of_the_brain_is_told_without_showing_it(
    changed: dict[str, str], said: str
) -> None:
    found = checked("brain", **changed)
    assert (found.status, said in found.detail) == ("failure", True)
    assert "variet init" in found.remedy
    value = changed["gateway_api_key"]
    assert not value or value not in found.detail


def test_every_secret_of_the_workstation_is_looked_at() -> None:
    for name in NEEDED:
        found = checked("hands", **of_hands(**{name: "short-one"}))
        assert found.status == "failure"
        assert name.upper() in found.detail
    assert "64 hexadecimal" in checked("hands", **of_hands(langfuse_encryption_key=GOOD)).detail


def test_a_key_that_is_copied_from_the_brain_is_not_to_be_made_here() -> None:
    for name in ("openai_compat_key", "embed_key"):
        for value in ("", "short-one"):
            assert "--brain-key KEY" in checked("hands", **of_hands(**{name: value})).remedy
    both = checked("hands", **of_hands(embed_key="", redis_password="short-one", logs_token=""))
    assert both.remedy.count("; ") == 2


def test_a_workstation_that_embeds_by_itself_needs_no_key_for_it() -> None:
    values = of_hands()
    del values["embed_url"], values["embed_key"]
    assert checked("hands", **values).status == "ok"


def test_a_line_that_is_no_setting_is_named(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("A=1\n???\n")
    file.chmod(0o600)
    with pytest.raises(SettingsError, match=r"\.env, line 2"):
        check_file(file, os.getuid())


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    file, mine = tmp_path / ".env", os.getuid()
    assert check_file(file, mine).remedy == "Run: variet init"
    file.write_text("GATEWAY_API_KEY=x\n")
    file.chmod(0o644)
    loose = check_file(file, mine)
    assert (loose.status, loose.remedy) == ("failure", f"chmod 600 {file}")
    file.chmod(0o640)
    assert check_file(file, mine).status == "failure", "its group is others, too"
    file.chmod(0o600)
    assert check_file(file, mine).status == "ok"
    assert "chown" in check_file(file, mine + 1).remedy
    assert check_file(file, 0).status == "ok", "root may look at anyone's"
