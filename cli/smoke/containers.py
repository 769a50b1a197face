"""Whether every service of the stack runs and is healthy."""

from cli.compose import Compose, Container
from cli.smoke.table import Failed


def healthy(compose: Compose) -> str:
    """A phrase for the table. Raises Failed that names each service at fault."""
    wanted = compose.services()
    found = {container.service: container for container in compose.containers()}
    if not found:
        raise Failed("No container of this stack is there.", "Start it: make up")
    bad = [why for name in wanted if (why := _fault(name, found.get(name)))]
    if bad:
        raise Failed("; ".join(bad) + ".", "Look at: make ps, make logs S=NAME")
    return f"{len(wanted)} healthy: {', '.join(sorted(wanted))}"


def _fault(name: str, container: Container | None) -> str:
    if container is None:
        return f"{name} was not started"
    # None of them ends by itself: one that has ended well was stopped by hand.
    if container.well:
        return ""
    return f"{name} is {container.health or container.state}"
