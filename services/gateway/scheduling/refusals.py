"""What the scheduler says when it lets a request in no more."""

from collections.abc import Iterable

from contracts.errors import ErrorBody
from services.gateway.scheduling.amounts import written
from services.gateway.scheduling.types import Demand, Failure, Limits, Refusal


def _refusal(
    status: int, code: str, message: str, remedy: str, retry_after_s: float | None = None
) -> Refusal:
    return Refusal(status, ErrorBody(code=code, message=message, remedy=remedy), retry_after_s)


def unknown(engine: str) -> Refusal:
    return _refusal(
        404,
        "model_not_found",
        f"engine={engine!r} is not configured.",
        "Ask for a model that GET /v1/models lists.",
    )


def too_large(engine: str, need: Demand, budget: Demand) -> Refusal:
    return _refusal(
        503,
        "insufficient_memory",
        f"{engine} needs {written(need)}; available are {written(budget, need)}.",
        "Lower its context in the host's preset, or choose a smaller model.",
    )


def pins_in_the_way(engine: str, pins: Iterable[str], need: Demand, room: Demand) -> Refusal:
    named = ", ".join(sorted(pins))
    return _refusal(
        409,
        "model_pinned",
        f"{engine} needs {written(need)}; beside what is pinned ({named}) there are "
        f"{written(room, need)}.",
        f"Unpin {named}, or ask for that model.",
    )


def locked(engine: str, holder: str) -> Refusal:
    return _refusal(
        409,
        "model_locked",
        f"{engine} is not loaded, and {holder} is locked: nothing is loaded beside it.",
        f"Unlock {holder}, or ask for a model that is loaded.",
    )


def queue_full(engine: str, limits: Limits, retry_after_s: float) -> Refusal:
    return _refusal(
        429,
        "queue_full",
        f"{limits.queue} requests wait for {engine}, as many as GATEWAY_QUEUE allows.",
        "Try again later, or raise GATEWAY_QUEUE.",
        retry_after_s,
    )


def waited(engine: str, limits: Limits, retry_after_s: float) -> Refusal:
    return _refusal(
        503,
        "queue_timeout",
        f"{engine} did not come free within GATEWAY_QUEUE_TIMEOUT_S={limits.queue_timeout_s:g}.",
        "Try again later, or raise GATEWAY_QUEUE_TIMEOUT_S.",
        retry_after_s,
    )


def failed(failure: Failure, retry_after_s: float) -> Refusal:
    return Refusal(503, failure.error, max(1.0, retry_after_s))


def stays(engine: str, why: str, remedy: str) -> Refusal:
    return _refusal(409, "model_in_use", f"{engine} is not unloaded: {why}.", remedy)
