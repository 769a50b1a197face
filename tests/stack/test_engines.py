"""Engines as containers of a real Docker engine: the fake one with its faults, and llama-server."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts.broker import DockerHost
from contracts.settings import REPOSITORY
from models.store import Store
from services.broker.docker_engine import DockerEngine
from services.broker.server import Listening
from services.gateway.engines import containers
from services.gateway.engines.container_body import ContainerPlace
from services.gateway.engines.containers import ContainerEngine, ContainerHost, Docker
from services.gateway.engines.docker_calls import DockerCalls
from services.gateway.engines.engine import LoadError
from tests.services.gateway.engines.bench import Phases, spec, until
from tests.stack import images
from tests.stack.docker import docker
from tests.support.tiny_gguf import write_tiny_gguf

pytestmark = pytest.mark.stack
PROJECT = "variet-engines-test"
SOCKET = Path("/var/run/docker.sock")
FAKE, LLAMA = "variet-test/fake-engine", "variet-test/llama-server"
SLOTS = "variet-engines-test-slots"
KEY = "sk-engines"
SUPPORT = REPOSITORY / "tests/support"
RECIPE = f"""FROM {images.PYTHON}
COPY fake_engine.py fake_replies.py http_connection.py /app/tests/support/
WORKDIR /app
ENTRYPOINT ["python3", "-m", "tests.support.fake_engine"]
"""


@pytest.fixture(scope="module")
def made(bases: None, folder: Path) -> Iterator[None]:
    """Images, and the network that engines are on."""
    recipe = folder / "fake.Dockerfile"
    recipe.write_text(RECIPE)
    docker("buildx", "build", "--load", "--file", str(recipe), "--tag", FAKE, str(SUPPORT))
    given = ("DEBIAN", images.DEBIAN), ("PYTHON", images.PYTHON), ("ORCHESTRATOR", images.PYTHON)
    words = [word for name, value in given for word in ("--build-arg", f"{name}={value}")]
    target = ("--target", "llama-server", "--tag", LLAMA)
    docker("buildx", "build", "--load", *words, *target, str(images.FOLDER))
    docker("network", "create", PROJECT)
    yield
    _remove_all()
    docker("network", "rm", PROJECT)


def _remove_all() -> None:
    left = docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={PROJECT}").split()
    if left:
        docker("rm", "-f", *left)


class Yard:
    """A model store, and gateways over it."""

    def __init__(self, folder: Path, image: str = FAKE) -> None:
        self.store = folder
        self.image = image
        self.hosts: list[ContainerHost] = []
        self._closing: list[Callable[[], Awaitable[None]]] = []

    def model(self, name: str = "m", **behaviour: Any) -> None:
        file = self.store / name / f"{name}.gguf"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"GGUF")
        file.with_name(f"{file.name}.faults.json").write_text(json.dumps(behaviour))
        for path in (file.parent, *file.parent.iterdir()):
            path.chmod(0o755)

    async def host(self, **more: Any) -> ContainerHost:
        """A new gateway's, through a broker of its own."""
        given: dict[str, Any] = {"load_timeout_s": 120.0, "grace_s": 2, **more}
        memory_mib = given.pop("memory_mib", 512)
        facts = DockerHost.model_validate(
            {
                "project": PROJECT,
                "images": {"llamacpp": given.pop("image", self.image)},
                "gpu": False,
                "networks": {"llamacpp": PROJECT},
                "mounts": {"models": str(self.store)},
                "volumes": {"vllm_cache": "c", "slots": SLOTS},
                "user": "1000:1000",
                "memory_mib": memory_mib,
                "cpus": 1.0,
            }
        )
        engine, socket = DockerEngine(SOCKET), self.store / f"{len(self.hosts)}.sock"
        broker = Listening(facts, engine, socket)
        await broker.open()
        calls = DockerCalls(socket)
        place = ContainerPlace(
            host=await calls.host(),
            key=KEY,
            store=Store(self.store),
            slots=given.pop("slots", None),
        )
        assert place.host == facts
        self.hosts.append(ContainerHost(Docker(place, calls, **given)))
        self._closing += [self.hosts[-1].close, broker.close, engine.close]
        return self.hosts[-1]

    async def close(self) -> None:
        for close in self._closing:
            await close()


@pytest.fixture
async def yard(made: None, folder: Path, request: pytest.FixtureRequest) -> AsyncIterator[Yard]:
    store = folder / f"store-{abs(hash(request.node.name))}"
    store.mkdir()
    store.chmod(0o755)
    yard = Yard(store)
    yield yard
    await yard.close()
    _remove_all()


def listed(*more: str) -> list[str]:
    words = ("--filter", f"label=com.docker.compose.project={PROJECT}", *more)
    return docker("ps", "-aq", "--no-trunc", *words).split()


def inspect(container: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(docker("inspect", container))
    return found[0]


async def test_an_engine_starts_within_its_bounds_and_is_removed(yard: Yard) -> None:
    yard.model()
    engine = (await yard.host()).engine(spec())
    running = await engine.start(2048, Phases())
    assert listed() == [running.id]
    about = inspect(running.id)
    assert about["Name"].startswith(f"/{PROJECT}-engine-m-")
    host, config = about["HostConfig"], about["Config"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["PidsLimit"]) == (True, ["ALL"], 512)
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert (host["Memory"], host["NanoCpus"]) == (512 << 20, 10**9)
    assert host["RestartPolicy"]["Name"] == "no"
    assert (config["User"], config["Healthcheck"]["Test"]) == ("1000:1000", ["NONE"])
    assert config["Labels"]["com.docker.compose.service"] == "engines"
    assert config["Labels"]["variet.context"] == "2048"
    assert [(m["Destination"], m["RW"]) for m in about["Mounts"]] == [("/models", False)]
    lines = [line async for line in engine.logs(follow=False)]
    assert lines[0] == b"srv  llama_server: initializing ...\n"
    await engine.stop()
    assert listed() == []


async def test_real_llama_server_serves_a_real_model(yard: Yard) -> None:
    target = yard.store / "m" / "m.gguf"
    target.parent.mkdir()
    target.parent.chmod(0o755)
    shutil.copy(REPOSITORY / "models/nano/nano.gguf", target)
    target.chmod(0o644)
    host = await yard.host(image=LLAMA)
    engine = host.engine(spec(flags=("--threads", "1")))
    running = await engine.start(512, Phases())
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    docker_host = host._docker
    answer = await docker_host.calls.post(
        f"{running.base_url}/v1/chat/completions", KEY, body, timeout_s=60
    )
    assert (answer.status, answer.json["model"]) == (200, "m")
    assert (await docker_host.calls.get(f"{running.base_url}/v1/models", "wrong")).status == 401
    assert (await docker_host.calls.get(f"{running.base_url}/", KEY)).status == 404
    await engine.stop()


@pytest.fixture
def slots() -> Iterator[Path]:
    """The volume of prompt caches, as the gateway's container sees it."""
    docker("volume", "create", SLOTS)
    folder = Path(docker("volume", "inspect", "--format", "{{.Mountpoint}}", SLOTS).strip())
    folder.chmod(0o1777)
    yield folder
    _remove_all()
    docker("volume", "rm", SLOTS)


async def test_a_prompt_is_still_known_after_a_swap(yard: Yard, slots: Path) -> None:
    target = yard.store / "m" / "m.gguf"
    target.parent.mkdir()
    target.parent.chmod(0o755)
    write_tiny_gguf(target).chmod(0o644)
    host = await yard.host(image=LLAMA, slots=slots)
    engine = host.engine(spec(flags=("--threads", "1", "--ignore-eos")))
    body = {"messages": [{"role": "user", "content": "hello there. " * 60}], "max_tokens": 4}
    known = []
    for _ in range(2):
        running = await engine.start(2048, Phases())
        url = f"{running.base_url}/v1/chat/completions"
        answer = await host._docker.calls.post(url, KEY, body, timeout_s=60)
        known.append(answer.json["timings"]["cache_n"] / answer.json["usage"]["prompt_tokens"])
        await engine.stop()
    assert known[0] == 0
    assert known[1] > 0.9
    assert listed() == []


async def test_the_next_gateway_adopts_what_runs(yard: Yard) -> None:
    yard.model()
    running = await (await yard.host()).engine(spec()).start(2048, Phases())
    adopted = await (await yard.host()).engine(spec()).find()
    assert adopted is not None
    assert (adopted.id, adopted.context, adopted.base_url) == (running.id, 2048, running.base_url)
    assert await (await yard.host()).engine(spec(flags=("--threads", "1"))).find() is None
    assert listed() == []


async def test_strangers_are_removed_by_label(yard: Yard) -> None:
    host = await yard.host()
    for name in ("a", "b"):
        yard.model(name)
        await host.engine(spec(name)).start(2048, Phases())
    assert await (await yard.host()).remove_strangers([spec("a").fingerprint]) == ["b"]
    assert listed() == listed("--filter", "label=variet.engine=a") != []


async def test_a_name_that_is_still_in_use_is_waited_for(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.model(ignore_sigterm=True)
    monkeypatch.setattr(containers, "new_name", lambda *_: f"{PROJECT}-engine-m-aaaa")
    # An engine that another gateway has left, and that nobody has stopped.
    first = await (await yard.host()).engine(spec()).start(2048, Phases())
    engine = (await yard.host()).engine(spec())
    second = await engine.start(2048, Phases())
    assert listed() == [second.id] != [first.id]
    # Two that end it at once.
    await asyncio.gather(engine.stop(), (await yard.host()).engine(spec()).stop())
    assert listed() == []
    await engine.start(2048, Phases())


async def test_a_missing_image_is_named(yard: Yard) -> None:
    yard.model()
    with pytest.raises(LoadError, match="no-such-image") as caught:
        await (await yard.host(image="no-such-image:1")).engine(spec()).start(2048, Phases())
    assert (caught.value.kind, caught.value.remedy) == ("refused", "make pull")
    assert listed() == []


@pytest.mark.parametrize(
    ("behaviour", "kind", "said"),
    [
        ({"eat_mib": 200}, "out_of_memory", "limit of its container"),
        ({"oom_above": 1000}, "out_of_memory", "cudaMalloc failed"),
        ({"crash_load": True}, "crashed", "data is not ok"),
    ],
)
async def test_a_load_that_ends_says_why_and_leaves_nothing(
    yard: Yard, behaviour: dict[str, Any], kind: str, said: str
) -> None:
    yard.model(**behaviour)
    engine = (await yard.host(memory_mib=64)).engine(spec())
    with pytest.raises(LoadError, match=said) as caught:
        await engine.start(2048, Phases())
    assert caught.value.kind == kind
    assert listed() == []
    lines = [line async for line in engine.logs(follow=False)]
    assert lines[0] == b"srv  llama_server: initializing ...\n"


async def test_a_cancelled_start_returns_when_nothing_is_left(yard: Yard) -> None:
    yard.model(never_ready=True)

    async def cancelled_when(holds: Callable[[], bool]) -> None:
        starting = asyncio.create_task((await yard.host()).engine(spec()).start(2048, Phases()))
        await until(holds)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert listed() == []

    steps = iter((False, True))
    await cancelled_when(lambda: next(steps))
    await cancelled_when(lambda: bool(listed("--filter", "status=running")))


async def test_its_end_is_noticed_with_its_last_words(yard: Yard) -> None:
    yard.model()
    engine = (await yard.host()).engine(spec())
    running = await engine.start(2048, Phases())
    ended = asyncio.create_task(engine.ended())
    await asyncio.sleep(0)
    docker("kill", "--signal", "KILL", running.id)
    assert "with exit code 137" in await ended
    await engine.stop()
    assert listed() == []


async def test_a_removed_engine_is_noticed(yard: Yard) -> None:
    yard.model()
    engine = (await yard.host()).engine(spec())
    assert isinstance(engine, ContainerEngine)
    running = await engine.start(2048, Phases())
    ended = asyncio.create_task(engine.ended())
    await asyncio.sleep(0)
    docker("rm", "-f", running.id)
    await until(ended.done)
    assert await engine.find() is None
