"""The broker before a real Docker engine, in its own container without a network: what an engine
may have it gets, and nothing else of this machine can be touched through it. Docker's SDK asks."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient  # type: ignore[import-untyped]
from docker.errors import APIError, ImageNotFound, NotFound  # type: ignore[import-untyped]
from docker.types import LogConfig, Mount  # type: ignore[import-untyped]

from contracts.broker import DockerHost
from contracts.settings import REPOSITORY
from tests.stack import images
from tests.stack.docker import docker, run
from tests.stack.report import Report

pytestmark = pytest.mark.stack

PROJECT = f"vbroker{os.getpid()}"
BROKER, GATEWAY, SURVIVOR = f"{PROJECT}-broker-1", f"{PROJECT}-gateway-1", f"{PROJECT}-survivor"
IMAGE = "variet-test/broker"
# Three different images; llama-server's is the real program, Debian's runs what it is told.
IMAGES = {
    "LLAMACPP_IMAGE": "variet-test/llama-server:latest",
    "VLLM_IMAGE": f"{images.DEBIAN}:latest",
    "TEI_IMAGE": f"{images.PYTHON}:latest",
}
USER = "1000:1000"
PATIENCE_S = 60.0


@dataclass
class Place:
    """A broker that runs. `client` asks it, `folder` is the model store."""

    client: DockerClient
    folder: Path
    host: DockerHost

    def engine(self, name: str, image: str, words: list[str], **more: Any) -> str:
        """Make an engine as a gateway does; its name."""
        kind = self.host.kind_of(image)
        assert kind
        api, network = self.client.api, self.host.networks[kind]
        settings: dict[str, Any] = {
            "network_mode": network,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "read_only": kind != "vllm",
            "tmpfs": {"/tmp": "mode=1777"},
            "mem_limit": 512 * 2**20,
            "nano_cpus": 10**9,
            "pids_limit": 128,
            "init": True,
            "log_config": LogConfig(type="json-file", config={"max-size": "10m", "max-file": "3"}),
        }
        whole = f"{self.host.name_start}{name}-0a1b"
        api.create_container(
            image,
            words,
            name=whole,
            user=None if kind == "vllm" else USER,
            labels=labels(name),
            host_config=api.create_host_config(**settings | more),
            networking_config=api.create_networking_config({network: None}),
            healthcheck={"test": ["NONE"]},
        )
        return whole


def labels(name: str) -> dict[str, str]:
    return {
        "com.docker.compose.project": PROJECT,
        "com.docker.compose.service": "engines",
        "com.docker.compose.oneoff": "False",
        "com.docker.compose.container-number": "1",
        "com.docker.compose.config-hash": "variet",
        "variet.engine": name,
        "variet.fingerprint": "0a1b",
        "variet.context": "512",
    }


@pytest.fixture(scope="module")
def image(bases: None) -> str:
    """The broker's, and llama-server's."""
    base, debian = f"BASE_IMAGE={images.PYTHON}", f"DEBIAN={images.DEBIAN}"
    others = ("--build-arg", f"PYTHON={images.PYTHON}", "--build-arg", "ORCHESTRATOR=unused")
    build("broker", IMAGE, "--build-arg", base, ".")
    folder = str(images.FOLDER)
    build("llama-server", IMAGES["LLAMACPP_IMAGE"], "--build-arg", debian, *others, folder)
    return IMAGE


def build(target: str, tag: str, *words: str) -> None:
    docker("buildx", "build", "--load", "--target", target, "--tag", tag, *words)


@pytest.fixture(scope="module")
def place(image: str, folder: Path, report: Report) -> Iterator[Place]:
    store, hub = folder / "store", folder / "hub"
    for path in (store, hub):
        path.mkdir()
    model = store / "nano.gguf"
    model.write_bytes((REPOSITORY / "models/nano/nano.gguf").read_bytes())
    for path in (store, hub, model):
        path.chmod(0o755)
    try:
        for kind in ("llamacpp", "vllm", "tei"):
            docker("network", "create", f"{PROJECT}_{kind}")
        for container, label in ((GATEWAY, PROJECT), (SURVIVOR, "shop")):
            words = ["--label", f"com.docker.compose.project={label}"]
            words += ["--label", "variet.engine=nano"] if container == SURVIVOR else []
            docker("run", "-d", "--name", container, *words, images.DEBIAN, "sleep", "infinity")
        began = time.monotonic()
        mounts = (f"{PROJECT}_broker:/run/broker", f"{store}:/models:ro", f"{hub}:/hub:ro")
        given = [f"--volume={mount}" for mount in mounts]
        given += [f"--env={name}={value}" for name, value in environment().items()]
        docker("run", "-d", "--name", BROKER, *OWN, *given, IMAGE)
        where = Path(docker("volume", "inspect", "-f", "{{.Mountpoint}}", f"{PROJECT}_broker"))
        until(lambda: (where / "docker.sock").exists())
        report.times["broker: docker run to its socket"] = time.monotonic() - began
        client = DockerClient(base_url=f"unix://{where}/docker.sock", timeout=60)
        told = client.api.get(f"{client.api.base_url}/variet/host").json()
        yield Place(client, store, DockerHost.model_validate(told))
        client.close()
    finally:
        mine = docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={PROJECT}")
        docker("rm", "--force", "--volumes", BROKER, SURVIVOR, *mine.split(), check=False)
        for kind in ("llamacpp", "vllm", "tei"):
            docker("network", "rm", f"{PROJECT}_{kind}", check=False)
        for volume in ("broker", "slots", "vllm_cache"):
            docker("volume", "rm", f"{PROJECT}_{volume}", check=False)


OWN = (
    *("--network", "none", "--cap-drop", "ALL", "--read-only", "--user", "0:0"),
    *("--security-opt", "no-new-privileges:true", "--memory", "128m", "--pids-limit", "64"),
    *("--volume", "/var/run/docker.sock:/var/run/docker.sock"),
)


def environment() -> dict[str, str]:
    return {"COMPOSE_PROJECT_NAME": PROJECT, "ENGINE_MEMORY": "1g", "ENGINE_CPUS": "2", **IMAGES}


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, docker("logs", BROKER, check=False)
        time.sleep(0.02)


def close(lines: Any) -> None:
    """The SDK's own way leaves the answer open, and with it the socket, until it is collected."""
    lines.close()
    lines._response.close()


def test_it_knows_where_its_host_keeps_the_models(place: Place) -> None:
    assert place.host.mounts.models == str(place.folder)
    assert place.host.images["llamacpp"] == IMAGES["LLAMACPP_IMAGE"]
    assert docker("exec", BROKER, "python", "-P", "-m", "services.broker", "--check") == ""


def test_an_engine_lives_from_its_creation_to_its_removal(place: Place, report: Report) -> None:
    words = ["--model", "/models/nano.gguf", "--alias", "nano", "--host", "0.0.0.0"]
    words += ["--port", "8080", "--ctx-size", "512", "--threads", "1", "--parallel", "1"]
    models = Mount("/models", place.host.mounts.models, type="bind", read_only=True)
    slots = Mount("/slots", place.host.volumes.slots, type="volume")
    began = time.monotonic()
    name = place.engine("nano", IMAGES["LLAMACPP_IMAGE"], words, mounts=[models, slots])
    engine = place.client.containers.get(name)
    engine.start()
    lines = engine.logs(stream=True, follow=True)
    assert any(b"listening" in line for line in lines)
    close(lines)
    report.times["broker: an engine from create to listening"] = time.monotonic() - began
    engine.reload()
    assert engine.status == "running"
    assert engine.attrs["HostConfig"]["ReadonlyRootfs"]
    assert engine.attrs["Config"]["User"] == USER
    assert [one.name for one in place.client.containers.list()] == [name]
    assert engine.stats(stream=False)["memory_stats"]["usage"] > 0
    ended: list[Any] = []
    waiting = threading.Thread(target=lambda: ended.append(engine.wait()))
    waiting.start()
    engine.stop(timeout=20)
    waiting.join(PATIENCE_S)
    assert ended[0]["Error"] is None if "Error" in ended[0] else "StatusCode" in ended[0]
    engine.remove()
    with pytest.raises(NotFound):
        place.client.containers.get(name)


def test_the_lines_of_a_log_come_while_the_engine_runs(place: Place) -> None:
    name = place.engine("talks", IMAGES["VLLM_IMAGE"], ["sh", "-c", "echo first; sleep 1000"])
    engine = place.client.containers.get(name)
    engine.start()
    try:
        lines = engine.logs(stream=True, follow=True)
        assert next(lines) == b"first\n"
        engine.reload()
        assert engine.status == "running"
        engine.kill(signal="KILL")
        assert list(lines) == []
        close(lines)
    finally:
        engine.remove(force=True)


ATTEMPTS: dict[str, Callable[[Place], object]] = {
    "list it": lambda p: p.client.containers.get(SURVIVOR),
    "stop it": lambda p: p.client.api.stop(SURVIVOR),
    "kill it": lambda p: p.client.api.kill(SURVIVOR),
    "remove it": lambda p: p.client.api.remove_container(SURVIVOR, force=True),
    "remove it by its id": lambda p: p.client.api.remove_container(identity(), force=True),
    "remove it by its short id": lambda p: p.client.api.remove_container(identity()[:12]),
    "read its log": lambda p: p.client.api.logs(SURVIVOR),
    "restart it": lambda p: p.client.api.restart(SURVIVOR),
    "pause it": lambda p: p.client.api.pause(SURVIVOR),
    "rename it": lambda p: p.client.api.rename(SURVIVOR, f"{PROJECT}-engine-x-0a1b"),
    "update it": lambda p: p.client.api.update_container(SURVIVOR, mem_limit="6m"),
    "enter it": lambda p: p.client.api.exec_create(SURVIVOR, "sh"),
    "copy from it": lambda p: p.client.api.get_archive(SURVIVOR, "/etc/passwd"),
    "copy to it": lambda p: p.client.api.put_archive(SURVIVOR, "/", b""),
    "attach to it": lambda p: p.client.api.attach(SURVIVOR),
    "commit it": lambda p: p.client.api.commit(SURVIVOR, "variet-test/x"),
    "export it": lambda p: next(p.client.api.export(SURVIVOR)),
    "prune": lambda p: p.client.api.prune_containers(),
    "stop the gateway": lambda p: p.client.api.stop(GATEWAY),
    "stop the broker": lambda p: p.client.api.stop(BROKER),
    "mount the host": lambda p: p.client.containers.run(
        IMAGES["VLLM_IMAGE"], "rm -r /host/x", volumes=["/:/host"], detach=True
    ),
    "mount the host at the models' place": lambda p: p.engine(
        "x", IMAGES["LLAMACPP_IMAGE"], [], mounts=[Mount("/models", "/", "bind", read_only=True)]
    ),
    "mount a volume of the host": lambda p: p.engine(
        "x", IMAGES["LLAMACPP_IMAGE"], [], mounts=[Mount("/slots", SURVIVOR, "volume")]
    ),
    "be privileged": lambda p: p.engine("x", IMAGES["VLLM_IMAGE"], [], privileged=True),
    "add a capability": lambda p: p.engine("x", IMAGES["VLLM_IMAGE"], [], cap_add=["SYS_ADMIN"]),
    "share its processes": lambda p: p.engine(
        "x", IMAGES["VLLM_IMAGE"], [], pid_mode=f"container:{SURVIVOR}"
    ),
    "share its network": lambda p: p.engine(
        "x", IMAGES["VLLM_IMAGE"], [], network_mode=f"container:{SURVIVOR}"
    ),
    "take its volumes": lambda p: p.engine("x", IMAGES["VLLM_IMAGE"], [], volumes_from=[SURVIVOR]),
    "another image": lambda p: p.client.api.create_container(IMAGE, name="x"),
    "make a volume of the host": lambda p: p.client.volumes.create(
        "x", driver_opts={"type": "none", "o": "bind", "device": "/"}
    ),
    "make a network": lambda p: p.client.networks.create("x"),
    "join a network": lambda p: p.client.api.connect_container_to_network(SURVIVOR, "bridge"),
    "load an image": lambda p: p.client.images.load(b"x"),
    "remove an image": lambda p: p.client.images.remove(IMAGES["VLLM_IMAGE"]),
    "info": lambda p: p.client.info(),
    "disk use": lambda p: p.client.df(),
    "a swarm": lambda p: p.client.swarm.init(),
    "plugins": lambda p: p.client.plugins.list(),
}


def identity() -> str:
    return docker("inspect", "-f", "{{.Id}}", SURVIVOR)


def state(name: str) -> Any:
    known = json.loads(docker("inspect", name))[0]
    now = {key: known["State"][key] for key in ("Status", "Pid", "StartedAt", "FinishedAt")}
    networks = sorted(known["NetworkSettings"]["Networks"])
    return now, known["HostConfig"], known["Name"], known["RestartCount"], networks


@pytest.mark.parametrize("what", ATTEMPTS)
def test_what_is_no_engine_survives(place: Place, what: str) -> None:
    before = [state(name) for name in (SURVIVOR, GATEWAY, BROKER)]
    containers, volumes = docker("ps", "-aq"), docker("volume", "ls", "-q")
    with pytest.raises(APIError) as refused:
        ATTEMPTS[what](place)
    assert refused.value.status_code == 403, refused.value
    assert refused.value.explanation
    assert [state(name) for name in (SURVIVOR, GATEWAY, BROKER)] == before
    assert (docker("ps", "-aq"), docker("volume", "ls", "-q")) == (containers, volumes)


def test_of_images_it_tells_and_fetches_the_engines_only(place: Place) -> None:
    assert place.client.images.get(IMAGES["TEI_IMAGE"]).tags
    for name in (IMAGE, "alpine"):
        with pytest.raises(APIError) as refused:
            place.client.images.get(name)
        assert refused.value.status_code == 403
    # There is no registry: what comes is Docker's own answer, not a refusal.
    with pytest.raises((APIError, ImageNotFound)) as failed:
        place.client.api.pull("variet-test/llama-server", tag="latest")
    assert failed.value.status_code in (404, 500)


def test_fifty_engines_leave_nothing(place: Place, report: Report) -> None:
    def held() -> tuple[int, int]:
        pid = docker("inspect", "-f", "{{.State.Pid}}", BROKER)
        status = Path(f"/proc/{pid}/status").read_text()
        (kib,) = [int(line.split()[1]) for line in status.splitlines() if "VmRSS" in line]
        return kib, len(list(Path(f"/proc/{pid}/fd").iterdir()))

    def once() -> None:
        name = place.engine("many", IMAGES["VLLM_IMAGE"], ["true"])
        place.client.api.start(name)
        place.client.api.wait(name)
        place.client.api.remove_container(name, force=True)

    once()
    before = held()
    began = time.monotonic()
    for _ in range(50):
        once()
    report.times["broker: one of fifty engines that end at once"] = (time.monotonic() - began) / 50
    after = held()
    report.note("broker: KiB and open files, before and after fifty engines", f"{before} {after}")
    assert place.client.containers.list(all=True) == []
    own = docker("ps", "-aq", "--filter", f"name={PROJECT}-engine")
    assert own == ""
    assert after[1] <= before[1] + 2
    assert after[0] < before[0] + 4_096


def test_it_says_why_it_cannot_start(image: str) -> None:
    said = run("docker", "run", "--rm", *OWN, "--env=COMPOSE_PROJECT_NAME=x", IMAGE, check=False)
    assert "Nothing of the host is mounted at /models" in said
    said = run("docker", "run", "--rm", *OWN, IMAGE, check=False)
    assert "COMPOSE_PROJECT_NAME" in said
