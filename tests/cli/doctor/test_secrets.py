import os
from pathlib import Path

import pytest

from cli.doctor.finding import Finding
from cli.doctor.secrets import HANDS, HANDS_SETTINGS, check_file, check_secrets
from contracts.deployment import Deployment
from contracts.settings import Settings

GOOD = "Zx9-qT4_mK7wLp2aBc5dEf8g"
ENCRYPTION = "0123456789abcdef" * 4


def checked(role: str, **values: str) -> Finding:
    here = Deployment(_env_file=None, variet_role=role, **values)  # type: ignore[arg-type]
    return check_secrets(here, Settings(_env_file=None, **values))  # type: ignore[arg-type]


def of_hands(**changed: str) -> dict[str, str]:
    values = dict.fromkeys((*HANDS, *HANDS_SETTINGS), GOOD)
    return {**values, "langfuse_encryption_key": ENCRYPTION, **changed}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*HANDS, *HANDS_SETTINGS, "gateway_api_key"):
        monkeypatch.delenv(name.upper(), raising=False)


def test_secrets_that_are_long_enough_are_well() -> None:
    assert checked("brain", gateway_api_key=GOOD).status == "ok"
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
    for name in (*HANDS, *HANDS_SETTINGS):
        found = checked("hands", **of_hands(**{name: "short-one"}))
        assert found.status == "failure"
        assert name.upper() in found.detail
    assert "64 hexadecimal" in checked("hands", **of_hands(langfuse_encryption_key=GOOD)).detail


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    file, mine = tmp_path / ".env", os.getuid()
    assert check_file(file, mine).remedy == "Run: variet init"
    file.write_text("GATEWAY_API_KEY=x\n")
    file.chmod(0o644)
    loose = check_file(file, mine)
    assert (loose.status, loose.remedy) == ("failure", f"chmod 600 {file}")
    file.chmod(0o600)
    assert check_file(file, mine).status == "ok"
    assert "chown" in check_file(file, mine + 1).remedy
    assert check_file(file, 0).status == "ok", "root may look at anyone's"
