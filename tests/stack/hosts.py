"""Brain and hands as Compose projects of this machine. They share no network: the hands know the
brain by its address on a LAN of its own, and by the ports that it publishes there."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2

from cli.compose import IMAGES
from cli.host.dotenv import EnvFile
from tests.stack.docker import docker, run

# The range for benchmarks (RFC 2544): no LAN uses it.
LAN_IP = "198.18.76.1"
BRIDGE = "variet-lan"
HEALTHY_TIMEOUT_S = 180.0


def open_lan() -> None:
    """A bridge with the brain's address, as a card on a LAN would have it."""
    close_lan()
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "address", "add", f"{LAN_IP}/24", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")


def close_lan() -> None:
    run("ip", "link", "delete", BRIDGE, check=False)


@dataclass(frozen=True)
class Host:
    """One of the two, by its file of settings."""

    env_file: Path

    @property
    def values(self) -> Mapping[str, str]:
        return EnvFile.read(self.env_file).values

    def init(self, *words: str, before: Mapping[str, str], after: Mapping[str, str]) -> str:
        """`variet init`, with lines of one's own `before` it and others changed `after`."""
        self.env_file.write_text("".join(f"{name}={value}\n" for name, value in before.items()))
        said = run(*(".venv/bin/variet", "init", "--yes", "--env-file", str(self.env_file), *words))
        text = self.env_file.read_text("utf-8")
        for name, value in after.items():
            text, found = re.subn(rf"(?m)^(# *)?{name}=.*$", f"{name}={value}", text, count=1)
            text += "" if found else f"{name}={value}\n"
        self.env_file.write_text(text, "utf-8")
        return said

    def make(self, target: str, *words: str, check: bool = True) -> str:
        return run("make", "-s", target, f"ENV_FILE={self.env_file}", *words, check=check)

    def compose(self, *words: str, check: bool = True) -> str:
        return run("docker", "compose", "--env-file", str(self.env_file), *words, check=check)

    def up(self) -> float:
        """`make up`; seconds until all of it is healthy."""
        began = time.monotonic()
        self.make("up")
        return time.monotonic() - began

    def destroy(self) -> None:
        words = ("down", "--volumes", "--remove-orphans", "--timeout", "5")
        self.compose("--profile", "*", *words, check=False)

    def container(self, service: str) -> str:
        found = self.compose("ps", "--all", "--quiet", service).split()
        assert len(found) == 1, f"{service}: {found}"
        return found[0]

    def services(self) -> list[str]:
        """Those that run; of others only the image is fetched."""
        return sorted({*self.compose("config", "--services").split()} - IMAGES)

    def engines(self) -> dict[str, str]:
        """Ids of the containers that the gateway has made and that run, by engine."""
        project = self.values["COMPOSE_PROJECT_NAME"]
        form = '{{.Label "variet.engine"}} {{.ID}}'
        mine = ("--filter", f"label=com.docker.compose.project={project}")
        told = docker(
            "ps", "--no-trunc", *mine, "--filter", "label=variet.engine", "--format", form
        )
        return dict(line.split(" ") for line in told.splitlines())

    def health(self, service: str) -> str:
        """Docker's word for it, or the container's state where it does not run."""
        form = "{{if .State.Running}}{{.State.Health.Status}}{{else}}{{.State.Status}}{{end}}"
        return docker("inspect", "--format", form, self.container(service), check=False)

    def wait_until_healthy(self, *services: str) -> float:
        """Seconds until these, or all, are healthy; fails with what is not."""
        began = time.monotonic()
        wanted = services or tuple(self.services())
        while True:
            found = {name: self.health(name) for name in wanted}
            took = time.monotonic() - began
            if set(found.values()) == {"healthy"}:
                return took
            assert took < HEALTHY_TIMEOUT_S, found
            time.sleep(0.2)

    def memory(self) -> dict[str, str]:
        """What each service's container holds now, as `docker stats` says it."""
        ids = {self.container(name)[:12]: name for name in self.services()}
        lines = docker("stats", "--no-stream", "--format", "{{.ID}} {{.MemUsage}}", *ids)
        pairs = (line.split(" ", 1) for line in lines.splitlines())
        return {ids[short[:12]]: usage.split("/")[0].strip() for short, usage in pairs}

    def image_sizes(self) -> dict[str, int]:
        """Bytes of each service's image."""
        sizes = {}
        for name in self.services():
            image = docker("inspect", "--format", "{{.Image}}", self.container(name))
            sizes[name] = int(docker("image", "inspect", "--format", "{{.Size}}", image))
        return sizes


def gateway(brain: Host, timeout_s: float = 120.0) -> httpx2.Client:
    """To the brain's one port, as the hands reach it."""
    return httpx2.Client(
        base_url=f"http://{LAN_IP}:8000",
        headers={"authorization": f"Bearer {brain.values['GATEWAY_API_KEY']}"},
        timeout=httpx2.Timeout(timeout_s, connect=5.0),
        trust_env=False,
    )


def client(hands: Host, timeout_s: float = 30.0) -> httpx2.Client:
    """To the orchestrator, at its published address and with its key."""
    values = hands.values
    return httpx2.Client(
        base_url=f"http://127.0.0.1:{values['PORT']}",
        headers={"authorization": f"Bearer {values['VARIET_API_KEY']}"},
        timeout=httpx2.Timeout(timeout_s, connect=5.0),
        trust_env=False,
    )
