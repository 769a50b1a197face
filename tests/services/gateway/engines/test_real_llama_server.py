"""Debian's llama-server as a process, from the archive that `make test-stack` makes and keeps."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts.settings import REPOSITORY
from models.store import Store
from services.gateway.engines.calls import EngineCalls
from services.gateway.engines.engine import LoadError
from services.gateway.engines.processes import ProcessHost
from tests.services.gateway.engines.bench import Bench, Phases, entry, spec
from tests.support.tiny_gguf import write_tiny_gguf

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "variet/rootfs"
ALONE = ("--threads", "1")


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that is the root of a Debian with llama-server."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to enter a Debian by chroot")
    archives = sorted(CACHE.glob("forky-*.tar"))
    if not archives:
        pytest.skip(f"needs a Debian with llama-server in {CACHE}: make test-stack makes it")
    root = tmp_path_factory.mktemp("debian")
    subprocess.run(("tar", "-C", str(root), "-xf", str(archives[-1])), check=True)
    # A path below the folder is the same path inside of it.
    inside = root / root.relative_to("/")
    inside.parent.mkdir(parents=True, exist_ok=True)
    inside.symlink_to("/")
    yield root
    shutil.rmtree(root)


@pytest.fixture
def place(bench: Bench, debian: Path, tmp_path: Path) -> Bench:
    bench.command = ("chroot", str(debian), "llama-server")
    bench.store = Store(debian / "tmp/models")
    bench.folder = debian / "tmp" / tmp_path.name
    return bench


def put(bench: Bench, source: Path, name: str = "m") -> None:
    path = bench.store.path(entry(name))
    assert path is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, path)


async def ask(base_url: str, text: str) -> dict[str, Any]:
    calls = EngineCalls()
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 8, "temperature": 0}
    answer = await calls.post(f"{base_url}/v1/chat/completions", "sk-engines", body, 60)
    await calls.close()
    assert answer.status == 200, answer.text
    return answer.json


async def test_it_loads_answers_is_adopted_and_stops(place: Bench) -> None:
    put(place, REPOSITORY / "models/nano/nano.gguf")
    host = place.host()
    engine, phases = host.engine(spec(flags=ALONE)), Phases()
    running = await engine.start(512, phases)
    assert phases.told[-1] == (1.0, "ready")
    assert running.seen_mib["ram"] >= 10
    assert (await ask(running.base_url, "Hello"))["model"] == "m"
    other = place.host()
    adopted = await other.engine(spec(flags=ALONE)).find()
    assert adopted is not None
    assert adopted.id == running.id
    await engine.stop()
    assert place.left_behind() == []
    for one in (host, other):
        await one.close()


async def test_a_file_that_is_no_model_is_told_in_its_own_words(
    place: Bench, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + bytes(64))
    put(place, damaged)
    host: ProcessHost = place.host()
    with pytest.raises(LoadError, match="fail") as caught:
        await host.engine(spec(flags=ALONE)).start(512, Phases())
    assert caught.value.kind == "crashed"
    assert place.left_behind() == []
    await host.close()


async def test_a_prompt_is_still_known_after_a_swap(place: Bench, tmp_path: Path) -> None:
    put(place, write_tiny_gguf(tmp_path / "tiny.gguf"))
    host = place.host(keep_kv=True)
    engine = host.engine(spec(flags=ALONE))
    text = "hello there. " * 60
    first = await ask((await engine.start(2048, Phases())).base_url, text)
    await engine.stop()
    second = await ask((await engine.start(2048, Phases())).base_url, text)
    assert first["timings"]["cache_n"] == 0
    assert second["timings"]["cache_n"] > second["usage"]["prompt_tokens"] - 8
    assert second["choices"][0]["message"] == first["choices"][0]["message"]
    await engine.stop()
    await host.close()


async def test_a_recurrent_models_prompt_is_not_kept(place: Bench) -> None:
    put(place, REPOSITORY / "models/nano/nano.gguf")
    host = place.host(keep_kv=True)
    engine = host.engine(spec(flags=ALONE))
    await ask((await engine.start(512, Phases())).base_url, "Hello")
    await engine.stop()
    assert list((place.folder / "slots").iterdir()) == []
    await host.close()
