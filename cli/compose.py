"""Docker Compose on this host's stack: the file, profiles and names are those of `.env`."""

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any, Protocol

from cli.text import exact
from contracts.deployment import Deployment, load_deployment
from contracts.errors import SettingsError, Unavailable, VarietError
from contracts.settings_reading import REPOSITORY, correct_it, env_file

CALL_TIMEOUT_S = 120.0
# Services of the brain's file that run nothing: their images are the engines'.
IMAGES = frozenset({"llamacpp", "vllm", "tei"})
# The name that the containers carry which the gateway makes.
ENGINES = "engines"
POLL_S = 0.5
BLOCK = 1 << 20


class Sink(Protocol):
    def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True)
class Container:
    """`state` and `health` are Docker's words; without a health check `health` is empty."""

    service: str
    state: str
    health: str
    exit_code: int

    @property
    def well(self) -> bool:
        return self.state == "running" and self.health in ("healthy", "")


def this_host() -> Deployment:
    """The settings of the stack here. Raises SettingsError when `variet init` has not been run."""
    path = env_file()
    if not path.is_file():
        raise SettingsError(
            "no_env", f"{path} is missing: this host has no role yet.", "Run: variet init"
        )
    deployment = load_deployment()
    if deployment.variet_role is None or deployment.compose_file is None:
        missing = "VARIET_ROLE" if deployment.variet_role is None else "COMPOSE_FILE"
        raise SettingsError(
            "no_role", f"{path} does not set {missing}.", f"{correct_it()} Or run: variet init"
        )
    return deployment


def profiles(deployment: Deployment) -> frozenset[str]:
    names = (deployment.compose_profiles or "").split(",")
    return frozenset(name.strip() for name in names if name.strip())


class Compose:
    """`docker compose` for one stack. Every failure is a VarietError that says what Docker said."""

    def __init__(self) -> None:
        self._words = [
            *("docker", "compose"),
            *("--project-directory", str(REPOSITORY)),
            *("--env-file", str(env_file())),
        ]

    def call(self, *words: str, given: bytes | None = None, timeout_s: float | None = None) -> str:
        """Run to the end; its standard output. `given` is its standard input."""
        try:
            done = subprocess.run(
                [*self._words, *words],
                cwd=REPOSITORY,
                input=b"" if given is None else given,
                capture_output=True,
                timeout=timeout_s or CALL_TIMEOUT_S,
            )
        except FileNotFoundError as error:
            raise no_docker() from error
        except subprocess.TimeoutExpired as error:
            raise Unavailable(
                "docker_slow",
                f"`docker compose {words[0]}` was not done after {error.timeout:.0f} s.",
                "Look at: docker compose ps",
            ) from error
        if done.returncode:
            raise failed(words, done.returncode, done.stderr)
        return done.stdout.decode("utf-8", "replace")

    def read(self, *words: str, into: "Sink") -> None:
        """Run, and pass on its standard output as it comes."""
        with self._process(words, subprocess.DEVNULL) as process:
            assert process.stdout
            while block := process.stdout.read(BLOCK):
                into.write(block)

    def feed(self, *words: str, source: IO[bytes]) -> str:
        """Run with a stream as its standard input; its standard output."""
        with self._process(words, subprocess.PIPE) as process:
            assert process.stdin
            assert process.stdout
            # Who ends without reading it all has said why on standard error.
            with suppress(BrokenPipeError):
                while block := source.read(BLOCK):
                    process.stdin.write(block)
            with suppress(BrokenPipeError):
                process.stdin.close()
            said = process.stdout.read()
        return said.decode("utf-8", "replace")

    @contextmanager
    def _process(self, words: tuple[str, ...], stdin: int) -> Iterator["subprocess.Popen[bytes]"]:
        """Raises afterwards when it has failed; killed when the body raises."""
        with tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(
                    [*self._words, *words],
                    cwd=REPOSITORY,
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                )
            except FileNotFoundError as error:
                raise no_docker() from error
            with process:
                try:
                    yield process
                except BaseException:  # boundary: nobody reads from it or writes to it any more
                    process.kill()
                    raise
            if process.returncode:
                errors.seek(0)
                raise failed(words, process.returncode, errors.read())

    def services(self, timeout_s: float | None = None) -> list[str]:
        """Those of the profiles that are selected, and that run."""
        named = self.call("config", "--services", timeout_s=timeout_s).split()
        return [name for name in named if name not in IMAGES]

    def configuration(self) -> dict[str, Any]:
        """The whole stack with every variable in its place. It holds the secrets."""
        found: dict[str, Any] = json.loads(self.call("config", "--format", "json"))
        return found

    def containers(self, timeout_s: float | None = None) -> list[Container]:
        said = self.call("ps", "--all", "--format", "json", timeout_s=timeout_s).strip()
        rows = json.loads(said) if said.startswith("[") else map(json.loads, said.splitlines())
        return [
            Container(row["Service"], row["State"], row.get("Health", ""), row.get("ExitCode", 0))
            for row in rows
        ]

    def wait_until_well(self, services: list[str], within_s: float) -> None:
        """Return when these run and are healthy. Raises Unavailable that names those that are not
        in time."""
        until = time.monotonic() + within_s
        while bad := [one for one in self.containers() if one.service in services and not one.well]:
            if time.monotonic() > until:
                raise Unavailable(
                    "not_healthy",
                    f"After {within_s:.0f} s not healthy: {', '.join(one.service for one in bad)}.",
                    "Look at: make ps, make logs S=NAME",
                )
            time.sleep(POLL_S)


def no_docker() -> VarietError:
    return Unavailable(
        "no_docker",
        "There is no `docker` on this host.",
        "Install Docker Engine with its Compose plugin: https://docs.docker.com/engine/install/",
    )


def failed(words: tuple[str, ...], status: int, said: bytes) -> VarietError:
    lines = said.decode("utf-8", "replace").strip().splitlines()
    reason = exact(lines[-1].strip()) if lines else f"exit status {status}"
    if "permission denied" in reason and "docker" in reason:
        remedy = "Add yourself to the group docker, then log in again."
    elif "Cannot connect to the Docker daemon" in reason:
        remedy = "Start Docker: sudo systemctl start docker"
    else:
        remedy = "Look at: make ps, make logs"
    return Unavailable("docker_failed", f"`docker compose {words[0]}` failed: {reason}", remedy)
