"""Two hosts on one Docker engine, started once for all tests of this folder."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import httpx2
import pytest

from contracts.settings import REPOSITORY
from tests.stack import hosts, images
from tests.stack.docker import lacking, run
from tests.stack.hosts import LAN_IP, Host
from tests.stack.report import Report

TIMEOUT_S = 1_800
# Big enough for an index, small enough to be filled.
STATE_MIB = 64
LINES = "40"
MODELS = Path(__file__).parent / "models"
REPORT = pytest.StashKey[Report]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORT] = Report()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("stack"):
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for line in config.stash[REPORT].lines():
        terminalreporter.write_line(line)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With a failure come the last words of both hosts' containers."""
    told = yield
    if told.failed and isinstance(item, pytest.Function):
        for name in ("brain", "hands"):
            if isinstance(host := item.funcargs.get(name), Host):
                told.sections.append(
                    (f"logs of the {name}", host.compose("--profile", "*", "logs", "--tail", LINES))
                )
    return told


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Report:
    return request.config.stash[REPORT]


@pytest.fixture(scope="session")
def alone() -> Iterator[None]:
    """Names of images, projects and the LAN are this machine's: one run at a time."""
    with (Path(tempfile.gettempdir()) / "variet-stack.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def bases(alone: None, report: Report) -> None:
    """The base images. What this machine lacks skips the tests."""
    if missing := lacking():
        pytest.skip(f"needs {missing}")
    with report.timed("two Debians, without a registry"):
        images.make_bases()


@pytest.fixture(scope="session")
def lan(bases: None) -> Iterator[None]:
    hosts.open_lan()
    yield
    hosts.close_lan()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outside of the repository, and open to the containers' users."""
    path = tmp_path_factory.mktemp("stack")
    for parent in (path, *path.parents[:2]):
        parent.chmod(0o755)
    return path


@pytest.fixture(scope="session")
def state_device(folder: Path, bases: None) -> Iterator[str]:
    """A small disk for the state volume: it outlives containers, and a test can fill it."""
    image = folder / "state.img"
    with image.open("wb") as file:
        file.truncate(STATE_MIB << 20)
    run("mkfs.ext4", "-q", "-E", "root_owner=10001:10001", str(image))
    device = run("losetup", "--find", "--show", str(image)).strip()
    yield device
    run("losetup", "--detach", device)


@pytest.fixture(scope="session")
def brain_settings(folder: Path, lan: None, report: Report) -> Host:
    host = Host(folder / "brain.env")
    models = folder / "models"
    shutil.copytree(MODELS, models)
    said = host.init(
        *("--role", "brain", "--preset", "cpu", "--lan-ip", LAN_IP, "--profiles", "embeddings"),
        before={"STATE_DIR": str(folder / "brain")},
        after={
            "COMPOSE_FILE": "docker-compose.gpu.yml:tests/stack/brain.override.yml",
            "COMPOSE_PROJECT_NAME": "variet-stack-brain",
            "VARIET_TAG": "stack",
            "BASE_IMAGE": images.PYTHON,
            "LLAMACPP_IMAGE": "variet-test/llama-server:latest",
            "TEI_IMAGE": "variet-test/embeddings:latest",
            "MODELS_DIR": str(models),
            "VARIET_PRESET": "test",
            # Room for the embeddings and one tier: another one has to be swapped in.
            "GATEWAY_RAM_MIB": "900",
            "GATEWAY_MIN_WARM_S": "0",
            "ENGINE_MEMORY": "2g",
        },
    )
    report.note("variet init, brain", said)
    store = Path(host.values["MODEL_STORE"]) / "nano"
    store.mkdir()
    shutil.copy(REPOSITORY / "models/nano/nano.gguf", store)
    return host


@pytest.fixture(scope="session")
def hands_settings(folder: Path, brain_settings: Host, state_device: str, report: Report) -> Host:
    workspace = folder / "workspace"
    shutil.copytree(REPOSITORY / "data/samples", workspace)
    key = brain_settings.values["GATEWAY_API_KEY"]
    host = Host(folder / "hands.env")
    said = host.init(
        *("--role", "hands", "--preset", "cpu", "--brain-ip", LAN_IP, "--brain-key", key),
        *("--profiles", "none", "--workspace", str(workspace)),
        before={"STATE_DIR": str(folder / "hands"), "PORT": "18801"},
        after={
            "COMPOSE_FILE": "docker-compose.workstation.yml:tests/stack/hands.override.yml",
            "COMPOSE_PROJECT_NAME": "variet-stack-hands",
            "VARIET_TAG": "stack",
            "BASE_IMAGE": images.PYTHON,
            "STACK_STATE_DEVICE": state_device,
        },
    )
    report.note("variet init, hands", said)
    values = host.values
    owner = int(values["VARIET_UID"]), int(values["VARIET_GID"])
    for path in (workspace, *workspace.rglob("*")):
        os.chown(path, *owner)
    return host


@pytest.fixture(scope="session")
def built(brain_settings: Host, hands_settings: Host, report: Report) -> None:
    """Our own images, and those that stand for others'."""
    with report.timed("build of our six images"):
        hands_settings.compose("build")
        brain_settings.compose("build")
    with report.timed("build of the images that stand for others'"):
        images.make_others("variet/orchestrator:stack")


@pytest.fixture(scope="session")
def brain(brain_settings: Host, built: None, report: Report) -> Iterator[Host]:
    try:
        report.times["brain: make up to healthy"] = brain_settings.up()
        yield brain_settings
    finally:
        brain_settings.destroy()


@pytest.fixture(scope="session")
def hands(hands_settings: Host, brain: Host, report: Report) -> Iterator[Host]:
    try:
        report.times["hands: make up to healthy"] = hands_settings.up()
        yield hands_settings
    finally:
        hands_settings.destroy()


@pytest.fixture
def api(hands: Host) -> Iterator[httpx2.Client]:
    with hosts.client(hands) as http:
        yield http
