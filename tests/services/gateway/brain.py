"""A brain of this test's own: manifest, preset, model files, and the gateway as a real process
whose engines are fake ones."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import yaml

ROOT = Path(__file__).resolve().parents[3]
ENGINE = f"{sys.executable} -m tests.support.fake_engine"
USER, ADMIN = "user-key-of-this-test", "admin-key-of-this-test"
PATIENCE_S = 60.0
FLAGS = ["--cache-ram", "0"]
TIERS = ("fast", "balanced", "deep")


@dataclass
class Brain:
    """`served` is, by tier, what the preset says of it; models are called as their tiers, with
    `-model`."""

    folder: Path
    served: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.journal = self.folder / "journal"
        self.journal.touch()
        (self.folder / "config" / "hosts").mkdir(parents=True, exist_ok=True)
        for tier in (*TIERS, "embed"):
            model = self.model_file(tier)
            model.parent.mkdir(parents=True, exist_ok=True)
            # No GGUF: then what a model needs is what the manifest says.
            model.write_text("a model of this test")
        self.write()

    def model_file(self, tier: str) -> Path:
        return self.folder / "store" / f"{tier}-model" / f"{tier}.gguf"

    def write(self) -> None:
        """Manifest and preset, as they stand now."""
        entries = [self._entry(tier, "chat") for tier in TIERS]
        entries.append(self._entry("embed", "embed"))
        preset = {
            "about": "A host of this test.",
            "tiers": {
                tier: {"model": f"{tier}-model", "flags": FLAGS, **self.served.get(tier, {})}
                for tier in TIERS
            },
            "embed": "embed-model",
            "aliases": self.aliases,
        }
        config = self.folder / "config"
        (config / "manifest.yaml").write_text(yaml.safe_dump({"models": entries}))
        (config / "hosts" / "here.yaml").write_text(yaml.safe_dump(preset))

    def _entry(self, tier: str, kind: str) -> dict[str, Any]:
        embeds = {"dimension": 8} if kind == "embed" else {}
        return {
            "id": f"{tier}-model",
            "about": "A model of this test.",
            "kind": kind,
            "engine": "in-process" if kind == "embed" else "llama.cpp",
            "source": {"url": f"https://models.invalid/{tier}.gguf"},
            "licence": "MIT",
            "context": 2048,
            "vram_mib": 0,
            "ram_mib": 100,
            **embeds,
            **self.entries.get(tier, {}),
        }

    def fault(self, tier: str, **faults: Any) -> None:
        """What that tier's engine does from now on; nothing: it does well."""
        beside = self.model_file(tier)
        path = beside.with_name(f"{beside.name}.faults.json")
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(faults))
        fresh.replace(path)

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """The engines' journal."""
        told = [json.loads(line) for line in self.journal.read_text().splitlines()]
        return [event for event in told if not kinds or event["event"] in kinds]

    def engines_alive(self) -> set[int]:
        """Process ids of engines that still run."""
        return {e["pid"] for e in self.events("start") if _alive(e["pid"])}

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "VARIET_ENV_FILE": str(self.folder / "no.env"),
            "VARIET_PRESET": "here",
            "MODELS_DIR": str(self.folder / "config"),
            "MODEL_STORE": str(self.folder / "store"),
            "GATEWAY_STATE_DIR": str(self.folder / "state"),
            "GATEWAY_PORT": "0",
            "GATEWAY_API_KEY": USER,
            "GATEWAY_ADMIN_KEY": ADMIN,
            "ENGINE_BACKEND": "process",
            "LLAMA_SERVER": f"env FAKE_ENGINE_JOURNAL={self.journal} {ENGINE}",
            "GATEWAY_MIN_WARM_S": "0",
            **self.settings,
        }

    def start(self) -> "GatewayProcess":
        return GatewayProcess(self)

    def end_engines(self) -> None:
        # One that was spawned a moment ago has not written to the journal yet.
        records = (self.folder / "state" / "engines").glob("*.json")
        recorded = {json.loads(path.read_text())["pid"] for path in records}
        for pid in self.engines_alive() | {pid for pid in recorded if _alive(pid)}:
            os.kill(pid, signal.SIGKILL)


class GatewayProcess:
    """`python -m services.gateway`. Its log is kept in a file beside the brain."""

    def __init__(self, brain: Brain) -> None:
        self.brain = brain
        self.log_path = brain.folder / "gateway.log"
        self._log = self.log_path.open("ab")
        self._told = self.log_path.stat().st_size
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services.gateway"],
            cwd=ROOT,
            env=brain.environment(),
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        self.url = ""

    def log(self) -> list[dict[str, Any]]:
        """What this process has logged."""
        with self.log_path.open("rb") as file:
            file.seek(self._told)
            return [json.loads(line) for line in file if line.startswith(b"{")]

    def text(self) -> str:
        return self.log_path.read_text()[self._told :]

    async def ready(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not self.url:
                if self.process.poll() is not None:
                    raise AssertionError(f"gateway ended: {self.text()}")
                for line in self.log():
                    self.url = line.get("url", self.url)
                await asyncio.sleep(0.02)

    async def logged(self, message: str) -> None:
        """Returns when it has logged that."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if any(line.get("message") == message for line in self.log()):
                    return
                await asyncio.sleep(0.02)

    async def wait(self) -> int:
        return await asyncio.to_thread(self.process.wait, PATIENCE_S)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._log.close()


@dataclass
class Client:
    """Asks a gateway, as a person or as an admin."""

    url: str
    session: aiohttp.ClientSession

    async def ask(self, method: str, path: str, body: Any = None, key: str = ADMIN) -> "Answer":
        headers = {"Authorization": f"Bearer {key}"}
        sent = self.session.request(method, self.url + path, json=body, headers=headers)
        async with sent as answer:
            text = await answer.text()
            return Answer(answer.status, dict(answer.headers), text)

    async def chat(self, model: str, **more: Any) -> "Answer":
        body = chat_body(model, **more)
        return await self.ask("POST", "/v1/chat/completions", body, USER)

    async def tiers(self) -> dict[str, dict[str, Any]]:
        told = (await self.ask("GET", "/tiers")).json()
        return {engine["name"]: engine for engine in told["engines"]}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json()["error"]
        return found


def chat_body(model: str, text: str = "Hello", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


async def stream(client: Client, tier: str, chunks: int, per_s: float) -> aiohttp.ClientResponse:
    """An answer that has begun."""
    body = chat_body(tier, stream=True, fake={"chunks": chunks, "tokens_per_s": per_s})
    headers = {"Authorization": f"Bearer {USER}"}
    url = f"{client.url}/v1/chat/completions"
    answer = await client.session.post(url, json=body, headers=headers)
    await answer.content.readline()
    return answer


async def states(client: Client) -> dict[str, str]:
    return {name: told["state"] for name, told in (await client.tiers()).items()}


Told = TypeVar("Told")


async def until(
    ask: Callable[[], Awaitable[Told]], fits: Callable[[Told], bool], pause_s: float = 0.05
) -> Told:
    """The first answer that fits."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if fits(told := await ask()):
                return told
            await asyncio.sleep(pause_s)


@asynccontextmanager
async def running(brain: Brain) -> AsyncIterator[tuple[GatewayProcess, Client]]:
    """The gateway and its engines, all of which are ended afterwards."""
    gateway = brain.start()
    try:
        await gateway.ready()
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            yield gateway, Client(gateway.url, session)
    finally:
        gateway.end()
        brain.end_engines()


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
