"""Our images: small, without tools to build or install with, and of a user without rights."""

import json
from typing import Any

import pytest

from tests.stack.docker import docker
from tests.stack.hosts import Host
from tests.stack.report import MB

pytestmark = pytest.mark.stack

OURS = ("orchestrator", "calibration", "logs", "workspace", "gateway", "broker")
# The Docker engine's socket is root's; without a capability, and without a network.
ROOT = "broker"
LIMIT_MB = 400
SEARCH = """
import importlib.util, shutil
tools = "gcc cc c++ ld make pip pip3 apt apt-get dpkg perl git curl wget".split()
modules = "pip setuptools ensurepip".split()
found = [name for name in tools if shutil.which(name)]
found += [name for name in modules if importlib.util.find_spec(name)]
print(" ".join(found))
"""
# Every module of the process was read from byte code that the image holds.
UNCOMPILED = """
import importlib.util, os, sys
import contracts.healthcheck, {module}
missing = []
for module in list(sys.modules.values()):
    path = str(getattr(module, "__file__", None) or "")
    if path.endswith(".py") and not os.path.exists(importlib.util.cache_from_source(path)):
        missing.append(path)
print(" ".join(missing))
"""


def image(name: str) -> str:
    return f"variet/{name}:stack"


def details(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("image", "inspect", image(name)))[0]
    return found


def python(name: str, program: str) -> str:
    return docker(
        "run", "--rm", "--network=none", "--entrypoint=python", image(name), "-c", program
    )


@pytest.mark.parametrize("name", OURS)
def test_an_image_is_smaller_than_400_megabytes(name: str, built: None) -> None:
    assert details(name)["Size"] / MB < LIMIT_MB


@pytest.mark.parametrize("name", OURS)
def test_nothing_in_an_image_builds_or_installs_programs(name: str, built: None) -> None:
    assert python(name, SEARCH) == ""


@pytest.mark.parametrize("name", OURS)
def test_an_image_runs_as_a_user_without_rights_and_watches_its_health(
    name: str, built: None
) -> None:
    config = details(name)["Config"]
    assert config["User"] == ("" if name == ROOT else "10001:10001")
    check = ["services.broker", "--check"] if name == ROOT else ["contracts.healthcheck"]
    assert not set(check) - set(config["Healthcheck"]["Test"])


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("orchestrator", "orchestrator.serve"),
        ("calibration", "tools.calibration.server"),
        ("logs", "tools.logs.server"),
        ("workspace", "tools.workspace.server"),
        ("gateway", "services.gateway.assembly"),
        ("broker", "services.broker.running"),
    ],
)
def test_a_start_compiles_nothing(name: str, module: str, built: None) -> None:
    assert python(name, UNCOMPILED.format(module=module)) == ""


def test_no_secret_and_no_test_is_in_an_image(hands_settings: Host, built: None) -> None:
    program = "import os; print(sorted(os.listdir('/app')), os.path.exists('/app/.env'))"
    assert python("orchestrator", program) == (
        "['contracts', 'models', 'orchestrator', 'services', 'tools'] False"
    )
    for name in OURS:
        known = json.dumps(details(name)["Config"])
        assert not [value for value in secrets(hands_settings) if value in known]


def secrets(host: Host) -> list[str]:
    words = ("_KEY", "_TOKEN", "_PASSWORD", "_SECRET", "_SALT")
    return [value for name, value in host.values.items() if name.endswith(words) and value]
