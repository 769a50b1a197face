"""The brain's gateway: whether it answers those who have a key, and nobody else.

Nothing that is asked here loads a model, or waits for one.
"""

from collections.abc import Iterator

from cli.doctor.finding import Finding, failure, ok
from cli.doctor.probe import Answer, ask

WRONG_KEY = "wrong" * 8
# Of no tier, alias or model.
NOBODY = "doctor--nobody"
# What vLLM and llama-server leave open to all, and the gateway's own that need a key.
CLOSED = ("/version", "/invocations", "/pause", "/slots", "/props", "/tiers", "/v1/models")


def check_gateway(base: str, key: str, start: str) -> Iterator[Finding]:
    """Whether it answers with the key, refuses without, and refuses a wrong one. `start` is the
    command that starts it."""
    url, name, logs = f"{base}/v1/models", "gateway", "Look at: make ps, make logs S=gateway"
    answer = ask(url, key)
    if not isinstance(answer, Answer):
        down = answer.reason == "refused"
        yield failure(name, answer.detail, f"Start it: {start}" if down else logs)
        return
    if answer.refused:
        yield failure(
            name,
            f"{url} refuses GATEWAY_API_KEY ({answer.status}).",
            f"It was started with another one: {start}",
        )
        return
    if answer.status != 200:
        yield failure(name, f"{url} answered {answer.status}.", logs)
        return
    yield ok(name, f"{url} answers")
    yield _refuses(url)


def _refuses(url: str) -> Finding:
    for kind, wrong in (("without a key", None), ("with a wrong key", WRONG_KEY)):
        other = ask(url, wrong)
        if isinstance(other, Answer) and not other.refused:
            return failure(
                "gateway key",
                f"{url} answered {other.status} {kind}: anyone on the network can use it.",
                "Set GATEWAY_API_KEY (variet init), then: make up",
            )
    return ok("gateway key", "without the key, or with a wrong one, it refuses")


def check_admin_key(base: str, user: str, admin: str) -> Finding:
    """Whether loading and unloading is for the admin's key alone, and that is another one."""
    name = "admin key"
    if not admin:
        return failure(name, "GATEWAY_ADMIN_KEY is not set.", "Make it: variet init; then: make up")
    if admin == user:
        return failure(
            name,
            "GATEWAY_ADMIN_KEY is the same as GATEWAY_API_KEY: whoever asks a model may unload it.",
            "Empty GATEWAY_ADMIN_KEY in the file of settings; variet init; make up",
        )
    # The key is looked at before the name, so that nothing is unloaded.
    url = f"{base}/tiers/{NOBODY}/unload"
    by_user, by_admin = ask(url, user, {}), ask(url, admin, {})
    if isinstance(by_user, Answer) and not by_user.refused:
        return failure(
            name,
            f"{url} answered {by_user.status} to GATEWAY_API_KEY: whoever asks a model may end it.",
            "Is it Variet's gateway that listens there? make ps",
        )
    if isinstance(by_admin, Answer) and by_admin.refused:
        return failure(
            name,
            f"{base} refuses GATEWAY_ADMIN_KEY ({by_admin.status}).",
            "It was started with another one: make up",
        )
    return ok(name, "models are loaded and unloaded with GATEWAY_ADMIN_KEY alone")


def check_open_routes(base: str) -> Finding:
    """Engines leave routes open that need no key; none of them may come through."""
    opened = [path for path in CLOSED if _answers(f"{base}{path}")]
    if opened:
        return failure(
            "open routes",
            f"{base} answers without a key: {', '.join(opened)}.",
            "Is it Variet's gateway that listens there, and not an engine? make ps",
        )
    return ok("open routes", f"none of {len(CLOSED)} that need a key answers without one")


def _answers(url: str) -> bool:
    answer = ask(url)
    return isinstance(answer, Answer) and answer.status < 400
