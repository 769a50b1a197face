"""What most tests of the orchestrator start from."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support import postgres
from tests.support.hands import Hands, hands
from tests.support.probe_tools import Probe
from tests.support.scripted_engine import ScriptedEngine


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    async with ScriptedEngine() as engine:
        yield engine


@pytest.fixture
async def probe() -> Probe:
    return Probe()


@pytest.fixture
async def variet(engine: ScriptedEngine, probe: Probe, tmp_path: Path) -> AsyncIterator[Hands]:
    async with hands(engine.url, tmp_path, probe.server) as running:
        yield running


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    try:
        with postgres.server() as server:
            yield server
    except postgres.NoServer as error:
        pytest.skip(str(error))


@pytest.fixture
def database_url(postgres_server: postgres.Server) -> Iterator[str]:
    """An empty PostgreSQL database."""
    with postgres_server.database() as url:
        yield url
