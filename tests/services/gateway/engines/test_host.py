import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.deployment import Deployment
from contracts.errors import Unavailable
from contracts.gateway_settings import GatewaySettings
from contracts.settings import load_settings
from models.manifest import load_preset
from services.gateway.engines.host import engine_key, open_host
from tests.services.gateway.engines.bench import FAKE, Bench, Phases, spec, until

# A gateway that starts an engine, says so, and waits for its end.
OWNER = """
import asyncio, sys
from pathlib import Path
from models.store import Store
from services.gateway.engines.processes import ProcessHost, ProcessPlace, split_command
from tests.services.gateway.engines.bench import Phases, spec

async def own(folder, store, command):
    place = ProcessPlace(Path(folder), split_command(command), "sk-engines", Store(Path(store)), 60)
    running = await ProcessHost(place).engine(spec()).start(2048, Phases())
    print(running.id, flush=True)
    await asyncio.Event().wait()

asyncio.run(own(*sys.argv[1:]))
"""


async def test_processes_are_chosen_by_the_setting(bench: Bench, tmp_path: Path) -> None:
    bench.model()
    settings = GatewaySettings(engine_backend="process", llama_server=shlex.join(FAKE))
    common = load_settings(model_store=bench.store.root)
    state = tmp_path / "state"
    host = await open_host(settings, Deployment(), load_preset("cpu"), state, common)
    engine = host.engine(spec())
    running = await engine.start(2048, Phases())
    assert running.key == (state / "engine.key").read_text()
    assert json.loads((state / "engines/m.json").read_text())["pid"] == int(running.id)
    await engine.stop()
    await host.close()


async def test_a_broker_that_does_not_answer_is_named(tmp_path: Path) -> None:
    settings = GatewaySettings(broker_socket=tmp_path / "no.sock")
    with pytest.raises(Unavailable, match="BROKER_SOCKET="):
        await open_host(settings, Deployment(), load_preset("cpu"), tmp_path, load_settings())


def test_the_engines_key_is_made_once_and_read_by_its_owner_only(tmp_path: Path) -> None:
    key = engine_key(tmp_path / "state")
    assert len(key) >= 40
    assert engine_key(tmp_path / "state") == key != engine_key(tmp_path / "other")
    assert (tmp_path / "state/engine.key").stat().st_mode & 0o777 == 0o600


def killed_owner(bench: Bench) -> str:
    """The number of the engine that a gateway had up when it was killed."""
    words = (str(bench.folder), str(bench.store.root), shlex.join(FAKE))
    owner = subprocess.Popen((sys.executable, "-c", OWNER, *words), stdout=subprocess.PIPE)
    assert owner.stdout is not None
    with owner.stdout:
        pid = owner.stdout.readline().strip().decode()
    owner.kill()
    owner.wait(60)
    return pid


async def test_a_gateway_that_is_killed_leaves_its_engine_to_the_next(bench: Bench) -> None:
    bench.model()
    pid = killed_owner(bench)
    host = bench.host()
    engine = host.engine(spec())
    adopted = await engine.find()
    assert adopted is not None
    assert (adopted.id, bench.count("start")) == (pid, 1)
    os.kill(int(pid), signal.SIGTERM)
    assert "only its log tells" in await engine.ended()
    await until(lambda: bench.count("stop") == 1)
    await host.close()
