"""The processes of the gateway's benchmark: the gateway, LiteLLM's proxy, and who asks."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.process import REPOSITORY, STOP_S, Child, loopback_listener
from tests.services.gateway.brain import ADMIN, FLAGS, USER, Brain

ENGINE = f"{sys.executable} -m tests.bench.gateway_engine"
LITELLM = Path.home() / ".cache/variet/litellm"
REQUIREMENTS = Path(__file__).with_name("requirements-litellm.lock")
LITELLM_KEY = "sk-bench"
START_S = 300.0
INSTALL_S = 1_200.0


@dataclass(frozen=True, slots=True)
class Side:
    """One way to the engine. `process` is what stands in it; None: nothing does."""

    name: str
    url: str
    key: str
    model: str
    process: Child | None = None


class Asker:
    """The process that asks, so that its own work is not in the measured one's way."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ask(self, side: Side, **job: Any) -> dict[str, Any]:
        told = {"url": side.url, "key": side.key, "model": side.model, **job}
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        figures: dict[str, Any] = json.loads(self._process.stdout.readline())
        if figures["failed"]:
            raise RuntimeError(f"{side.name}: {figures['failed']} requests failed")
        return figures


@contextmanager
def asker(folder: Path) -> Iterator[Asker]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.gateway_load"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        process.stdout.readline()
        yield Asker(process)
    finally:
        _end(process)


@contextmanager
def gateway(folder: Path) -> Iterator[Side]:
    """`python -m services.gateway`, as it is deployed without Docker. Two of its models do not fit
    into memory together."""
    folder.mkdir()
    port = free_port()
    flags = {"flags": [*FLAGS, "--parallel", "256"]}
    brain = Brain(folder, served={"fast": flags, "deep": flags, "balanced": flags})
    brain.settings = {
        "LLAMA_SERVER": ENGINE,
        "GATEWAY_PORT": str(port),
        "GATEWAY_RAM_MIB": "150",
        "GATEWAY_QUEUE": "256",
    }
    process = brain.start()
    started = time.perf_counter()
    url = f"http://127.0.0.1:{port}"
    try:
        wait(url + "/health", process.process)
        child = Child(url, process.process.pid, time.perf_counter() - started)
        yield Side("gateway", url, USER, "fast", child)
    finally:
        # Politely: then it ends its engines.
        process.process.terminate()
        _end(process.process)
        process.end()


def load(side: Side, tier: str) -> float:
    """Have the gateway load a tier; milliseconds."""
    request = urllib.request.Request(
        f"{side.url}/tiers/{tier}/load",
        b"",
        {"Authorization": f"Bearer {ADMIN}"},
        method="POST",
    )
    started = time.perf_counter()
    try:
        with urllib.request.urlopen(request, timeout=START_S) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{tier} was not loaded: {error.read()!r}") from error
    return (time.perf_counter() - started) * 1_000


def bare_start(folder: Path) -> float:
    """Milliseconds from the engine's creation to its answer, asked as often as the gateway may."""
    port = free_port()
    started = time.perf_counter()
    process = subprocess.Popen(
        [*ENGINE.split(), "--port", str(port)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
    )
    try:
        wait(f"http://127.0.0.1:{port}/health", process)
        return (time.perf_counter() - started) * 1_000
    finally:
        _end(process)


def metrics(side: Side) -> str:
    request = urllib.request.Request(
        f"{side.url}/metrics", headers={"Authorization": f"Bearer {ADMIN}"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(answer.read().decode())


@contextmanager
def litellm(folder: Path, engine_url: str) -> Iterator[Side | str]:
    """LiteLLM's proxy with one worker; or why there is none."""
    if (problem := _install()) is not None:
        yield problem
        return
    port = free_port()
    config = folder / "litellm.yaml"
    config.write_text(json.dumps(_configuration(engine_url)), "utf-8")
    with (folder / "litellm.log").open("wb") as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            [str(LITELLM / "bin/litellm"), "--config", str(config), "--host", "127.0.0.1",
             "--port", str(port), "--num_workers", "1"],
            cwd=folder, env=_quiet(folder), stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}"
            try:
                wait(url + "/health/liveliness", process)
            except RuntimeError as error:
                text = (folder / "litellm.log").read_text("utf-8", "replace")
                yield f"it did not start: {error} {text[-300:]}"
                return
            child = Child(url, process.pid, time.perf_counter() - started)
            yield Side("LiteLLM", url, LITELLM_KEY, "bench", child)
        finally:
            _end(process)


def _configuration(engine_url: str) -> Mapping[str, Any]:
    target = {"model": "openai/bench", "api_base": f"{engine_url}/v1", "api_key": "none"}
    return {
        "model_list": [{"model_name": "bench", "litellm_params": target}],
        "general_settings": {"master_key": LITELLM_KEY},
        "litellm_settings": {"telemetry": False, "set_verbose": False},
    }


def _quiet(folder: Path) -> dict[str, str]:
    """No network, no log per request: what it can do, it shall do."""
    return {
        "PATH": f"{LITELLM / 'bin'}:{os.environ['PATH']}",
        "HOME": str(folder),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "NO_DOCS": "True",
    }


def _install() -> str | None:
    """Its environment, made once; or why it cannot be."""
    stamp = LITELLM / REQUIREMENTS.name
    if stamp.exists() and stamp.read_bytes() == REQUIREMENTS.read_bytes():
        return None
    pip = [str(LITELLM / "bin/python"), "-m", "pip", "install", "-q", "--no-deps"]
    commands = ([sys.executable, "-m", "venv", str(LITELLM)],
                [*pip, "--require-hashes", "-r", str(REQUIREMENTS)])  # fmt: skip
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S)
        if done.returncode:
            return f"it cannot be installed: {done.stderr.strip()[-300:]}"
    stamp.write_bytes(REQUIREMENTS.read_bytes())
    return None


def free_port() -> int:
    with loopback_listener() as listener:
        return int(listener.getsockname()[1])


def wait(url: str, process: "subprocess.Popen[Any]") -> None:
    """Until it answers with 200. Raises RuntimeError."""
    until = time.perf_counter() + START_S
    while time.perf_counter() < until:
        if process.poll() is not None:
            raise RuntimeError(f"it ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.005)
    raise RuntimeError(f"no answer within {START_S:g} s")


def _end(process: "subprocess.Popen[Any]") -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
