"""The workstation: Docker, its containers, the way to the brain, Langfuse and the orchestrator."""

import math
from collections.abc import Iterator
from urllib.parse import urlsplit

from pydantic import SecretStr

from cli.compose import Compose, profiles
from cli.doctor.check import Check
from cli.doctor.clock import check_clock, seconds_ahead
from cli.doctor.docker import check_containers, check_docker, containers
from cli.doctor.finding import Finding, failure, ok, warning
from cli.doctor.installation import check_orchestrator
from cli.doctor.network import (
    OTHER_HOST,
    Port,
    check_exposure,
    check_firewall,
    check_neighbour,
    check_ports,
)
from cli.doctor.probe import Answer, Silence, ask, own_address
from cli.doctor.secrets import check_file, check_secrets, current_user
from cli.host.addresses import addresses
from cli.host.command import Runner
from contracts.deployment import Deployment
from contracts.gateway_settings import GatewaySettings
from contracts.settings import LOOPBACK, Settings
from contracts.settings_reading import env_file
from models.manifest import load_manifest

EVERYWHERE = ("0.0.0.0", "::")
# After such a silence there is no time for another question.
SLOW = ("timeout", "silent", "route")


def checks(
    here: Deployment,
    settings: Settings,
    gateway: GatewaySettings,
    run: Runner,
    url: str | None,
    uid: int | None = None,
) -> list[Check]:
    """What there is to see on the workstation. `uid`: who looks; default: the present user."""
    user = current_user() if uid is None else uid
    hands = _Hands(here, settings, gateway, run)
    return [
        Check("settings file", lambda: [check_file(env_file(), user)]),
        Check("secrets", lambda: [check_secrets(here, settings, gateway)]),
        Check("docker", lambda: check_docker(run, False)),
        Check("ports", hands.ports_free),
        Check("containers", lambda: check_containers(Compose())),
        Check("brain", lambda: [check_engine(settings)]),
        Check("embeddings", hands.embeddings),
        Check("clock", lambda: check_clocks(settings)),
        Check("brain's other ports", hands.brains_other_ports),
        Check("exposure", hands.exposure),
        Check("firewall", lambda: [check_firewall(run, "hands", settings.bind_addr, user)]),
        Check("langfuse", hands.langfuse),
        Check("orchestrator", lambda: check_orchestrator(url, failure, "Start it: make up")),
    ]


class _Hands:
    def __init__(
        self, here: Deployment, settings: Settings, gateway: GatewaySettings, run: Runner
    ) -> None:
        self._here = here
        self._settings = settings
        self._gateway = gateway
        self._run = run
        self.selected = profiles(here)

    @property
    def _ports(self) -> list[Port]:
        found = [Port("PORT", self._settings.port, ("orchestrator",))]
        if "langfuse" in self.selected:
            found.append(Port("LANGFUSE_PORT", self._here.langfuse_port, ("langfuse-web",)))
            found.append(Port("LANGFUSE_S3_PORT", self._here.langfuse_s3_port, ("seaweedfs",)))
        return found

    def ports_free(self) -> Iterator[Finding]:
        yield from check_ports(self._settings.bind_addr, self._ports, containers())

    def embeddings(self) -> Iterator[Finding]:
        if self._settings.embed_url:
            yield check_embeddings(self._settings, self._settings.embed_url)

    def brains_other_ports(self) -> Iterator[Finding]:
        host = self._here.brain_ip
        if host is None:
            return
        if host in LOOPBACK or own_address(host) == host:
            yield ok("brain's other ports", f"BRAIN_IP={host} is this host: not looked for")
            return
        urls = (self._settings.openai_compat_url, self._settings.embed_url)
        published = {self._gateway.gateway_port}
        published |= {port for url in urls if url and (port := urlsplit(url).port)}
        yield check_neighbour(host, frozenset(published))

    def exposure(self) -> Iterator[Finding]:
        bound = self._settings.bind_addr
        if bound in EVERYWHERE:
            yield warning(
                "exposure",
                f"BIND_ADDR={bound}: the orchestrator is published on every network of this host.",
                f"Set BIND_ADDR to one address. {OTHER_HOST}",
            )
            return
        yield check_exposure(bound, self._ports, addresses(self._run))

    def langfuse(self) -> Iterator[Finding]:
        if "langfuse" not in self.selected:
            return
        url = self._settings.langfuse_base_url or f"http://127.0.0.1:{self._here.langfuse_port}"
        answer = ask(f"{url}/api/public/health")
        logs = "Look at: make ps; make logs S=langfuse-web"
        if isinstance(answer, Silence):
            yield failure("langfuse", answer.detail, logs)
        elif answer.status != 200:
            yield failure("langfuse", f"{url} answered {answer.status}.", logs)
        else:
            yield ok("langfuse", f"{url} answers")


def check_engine(settings: Settings) -> Finding:
    """Whether the brain answers and takes our key; if not, which of the ways to fail it is."""
    url = settings.openai_compat_url
    if url is None:
        return failure("brain", "OPENAI_COMPAT_URL is not set.", "Run: variet init")
    answer = ask(f"{url}/models", _key(settings.openai_compat_key))
    if isinstance(answer, Silence):
        return failure("brain", answer.detail, _remedy(answer, url, "OPENAI_COMPAT_URL"))
    if answer.refused:
        return _wrong_key("brain", url, answer, "OPENAI_COMPAT_KEY")
    listed = answer.json()
    rows = listed.get("data") if isinstance(listed, dict) else None
    if answer.status != 200 or not isinstance(rows, list):
        return _stranger("brain", url, answer, "OPENAI_COMPAT_URL")
    names = [str(row.get("id")) for row in rows if isinstance(row, dict)]
    return ok("brain", f"{url} serves {', '.join(names) or 'no model'}")


def check_embeddings(settings: Settings, url: str) -> Finding:
    """Whether the server at `url` embeds, with vectors of the length that EMBED_MODEL has."""
    body = {"model": settings.embed_model, "input": ["doctor"], "encoding_format": "float"}
    answer = ask(f"{url}/embeddings", _key(settings.embed_key), body)
    if isinstance(answer, Silence):
        return failure("embeddings", answer.detail, _remedy(answer, url, "EMBED_URL"))
    if answer.refused:
        return _wrong_key("embeddings", url, answer, "EMBED_KEY")
    length = _dimension(answer.json()) if answer.status == 200 else None
    if length is None:
        return _stranger("embeddings", url, answer, "EMBED_URL")
    expected = expected_dimension(settings.embed_model)
    if expected is not None and length != expected:
        return failure(
            "embeddings",
            f"{url} answers {length} numbers, but EMBED_MODEL={settings.embed_model} has"
            f" {expected}.",
            "Let EMBED_MODEL be the model that the brain serves, then index anew:"
            " variet ingest --rebuild",
        )
    return ok("embeddings", f"{url} answers {length} dimensions")


def check_clocks(settings: Settings) -> Iterator[Finding]:
    """Ask the brain's servers, one after the other, until one tells the time. Nothing where none
    answers: that is told by others."""
    questions: list[tuple[str, str | None]] = []
    if settings.openai_compat_url:
        key = _key(settings.openai_compat_key)
        questions.append((f"{settings.openai_compat_url}/models", key))
    if settings.embed_url:
        # Not below /v1, and open to all, with TEI and with llama-server.
        questions.append((f"{settings.embed_url.removesuffix('/v1')}/health", None))
    answers: list[Answer] = []
    for url, key in questions:
        answer = ask(url, key)
        if isinstance(answer, Answer):
            answers.append(answer)
            if seconds_ahead(answer) is not None:
                break
        elif answer.reason in SLOW:
            break
    if answers:
        yield check_clock(answers)


def expected_dimension(model: str) -> int | None:
    """The length of a model's vectors by the manifest; None if it is not in there. `model` is an
    id of the manifest, or a repository on the hub."""
    entry = load_manifest().get(model.rpartition("/")[2].lower())
    return entry.dimension if entry else None


def _dimension(answer: object) -> int | None:
    """The length of the one vector that was asked for; None if it is none."""
    rows = answer.get("data") if isinstance(answer, dict) else None
    row = rows[0] if isinstance(rows, list) and len(rows) == 1 else None
    vector = row.get("embedding") if isinstance(row, dict) else None
    if not isinstance(vector, list) or not vector:
        return None
    if not all(isinstance(one, int | float) and math.isfinite(one) for one in vector):
        return None
    return len(vector)


def _remedy(silence: Silence, url: str, setting: str) -> str:
    """What to do about it, by how the way there ends."""
    host = urlsplit(url).hostname or ""
    match silence.reason:
        case "refused":
            return (
                f"The brain is on, but nothing listens there. On it: make up. Or correct {setting}."
            )
        case "timeout":
            mine = own_address(host)
            admit = f" Its firewall has to admit this host: there, HANDS_IP={mine}." if mine else ""
            return f"Is the brain on, and {setting} its address?{admit}"
        case "route":
            return f"Look at the cable or Wi-Fi of both hosts, and at the address in {setting}."
        case "name":
            return f"Write the brain's IP address into {setting}."
        case "silent":
            return "It may be loading a model, or hang. On the brain: make ps, make logs"
        case "stranger":
            return f"Another program has that port. Correct {setting}; on the brain: make ps"


def _wrong_key(name: str, url: str, answer: Answer, setting: str) -> Finding:
    return failure(
        name,
        f"{url} refuses our key ({answer.status}).",
        f"Copy GATEWAY_API_KEY of the brain's settings to {setting} here, then: make up",
    )


def _stranger(name: str, url: str, answer: Answer, setting: str) -> Finding:
    if answer.status >= 500:
        return failure(
            name, f"{url} answered {answer.status}.", "On the brain: variet doctor, make logs"
        )
    return failure(
        name,
        f"{url} answered {answer.status}, but not as such a server does.",
        f"Another program may have that port. Correct {setting}; on the brain: make ps",
    )


def _key(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
