"""Docker's versions, and the containers of this host's stack."""

from collections.abc import Iterator

from cli.compose import Compose, Container
from cli.doctor.finding import Finding, failure, ok, told, warning
from cli.host.command import Runner
from cli.host.docker import COMPOSE_MIN, ENGINE_MIN, Docker, docker, version
from contracts.errors import VarietError

# Since 28.0 a neighbour on the LAN cannot reach what is published on loopback (moby#45610).
ENGINE_CLOSED = (28, 0)
INSTALL = "Install Docker Engine and its Compose plugin: https://docs.docker.com/engine/install/"
CALL_S = 7.0


def check_docker(run: Runner, cards_wanted: bool) -> Iterator[Finding]:
    """`cards_wanted`: whether a container of this host is to be given NVIDIA's cards."""
    known = docker(run)
    yield check_engine(known)
    yield check_compose(known)
    if cards_wanted and known.engine:
        yield check_nvidia(known)


def check_engine(known: Docker) -> Finding:
    if known.engine is None:
        return failure("docker", f"{known.problem.rstrip('.')}.", _start(known.problem))
    if not known.engine_fits:
        least = ".".join(map(str, ENGINE_MIN))
        return failure("docker", f"Engine {known.engine} is older than {least}.", INSTALL)
    if version(known.engine) < ENGINE_CLOSED:
        return warning(
            "docker",
            f"Engine {known.engine}: a neighbour can reach ports published on loopback.",
            "Update Docker Engine to 28 or newer.",
        )
    return ok("docker", f"Engine {known.engine}")


def check_compose(known: Docker) -> Finding:
    if known.compose is None:
        hangs = "did not end" in known.compose_problem
        remedy = _start(known.compose_problem) if hangs else INSTALL
        return failure("compose", f"{known.compose_problem.rstrip('.')}.", remedy)
    if not known.compose_fits:
        least = ".".join(map(str, COMPOSE_MIN))
        return failure("compose", f"Compose {known.compose} is older than {least}.", INSTALL)
    return ok("compose", f"Compose {known.compose}")


def check_nvidia(known: Docker) -> Finding:
    if known.nvidia:
        return ok("nvidia runtime", "containers can be given cards")
    return failure(
        "nvidia runtime",
        "Docker cannot give containers a card.",
        "Install NVIDIA's Container Toolkit, then: sudo nvidia-ctk runtime configure"
        " --runtime=docker && sudo systemctl restart docker",
    )


def check_containers(compose: Compose) -> Iterator[Finding]:
    """One finding for all that are well, and one for each that is not."""
    try:
        wanted = compose.services(timeout_s=CALL_S)
        found = {one.service: one for one in compose.containers(timeout_s=CALL_S)}
    except VarietError as error:
        yield told("containers", error)
        return
    here = [found[name] for name in wanted if name in found]
    if wanted and not here:
        yield failure("containers", f"None of {', '.join(wanted)} runs.", "Start them: make up")
        return
    well = [one.service for one in here if one.well]
    if well:
        yield ok("containers", f"{len(well)} of {len(wanted)} are well: {', '.join(well)}")
    for name in wanted:
        if name not in found:
            yield failure(f"container {name}", "It does not run.", "Start it: make up")
        elif not found[name].well:
            yield _unwell(found[name])


def containers() -> list[Container]:
    """Those of this host's stack; none where Docker does not answer, which is another's finding."""
    try:
        return Compose().containers(timeout_s=CALL_S)
    except VarietError:
        return []


def _unwell(one: Container) -> Finding:
    name, logs = f"container {one.service}", f"Look at: make logs S={one.service}"
    if one.health == "starting":
        return warning(name, "It is starting; an engine that loads a model takes minutes.", logs)
    if one.state == "created":
        return warning(name, "It waits until those that it needs are well.", "Look at: make ps")
    if one.state == "running":
        return failure(name, f"It runs, but is {one.health}.", logs)
    if one.state == "exited" and one.exit_code == 0:
        return failure(name, "It has ended.", f"{logs}; start it: make up")
    return failure(name, f"It is {one.state} (exit status {one.exit_code}).", logs)


def _start(problem: str) -> str:
    if "permission denied" in problem:
        return "Add yourself to the group docker, then log in again."
    if "No such file or directory" in problem and "sock" not in problem:
        return INSTALL
    if "did not end" in problem:
        return "The engine hangs. Restart it: sudo systemctl restart docker"
    return "Start Docker: sudo systemctl start docker"
