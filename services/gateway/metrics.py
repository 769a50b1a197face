"""What Prometheus is told, per model. `model` is an engine's name as answers carry it."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

PREFIX = "variet_gateway"
WAITS_S = (0.01, 0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600)
FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """One registry of its own, so that several gateways can live in one process. `refresh` is
    called before each exposition, for what is only known by asking."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.refresh: Callable[[], None] = lambda: None
        self.requests = Counter(
            f"{PREFIX}_requests",
            "Requests that ended",
            ("model", "route", "status"),
            registry=registry,
        )
        self.cancelled = Counter(
            f"{PREFIX}_cancelled", "Requests whose client left", ("model",), registry=registry
        )
        self.tokens = Counter(
            f"{PREFIX}_tokens", "Tokens that engines told", ("model", "kind"), registry=registry
        )
        self.tokens_per_s = Gauge(
            f"{PREFIX}_tokens_per_second", "Speed of the last answer", ("model",), registry=registry
        )
        self.first_token = Histogram(
            f"{PREFIX}_first_token_seconds",
            "From the engine's grant to its first byte of an answer",
            ("model",),
            buckets=FIRST_TOKEN_S,
            registry=registry,
        )
        self.queue_wait = Histogram(
            f"{PREFIX}_queue_wait_seconds",
            "From a request's arrival to its grant",
            ("model", "priority"),
            buckets=WAITS_S,
            registry=registry,
        )
        self.swap = Histogram(
            f"{PREFIX}_swap_seconds",
            "Parts of bringing an engine up: drain, stop, memory, start, ready",
            ("model", "phase"),
            buckets=WAITS_S,
            registry=registry,
        )
        self.evictions = Counter(
            f"{PREFIX}_evictions",
            "Engines that were unloaded",
            ("model", "reason"),
            registry=registry,
        )
        self.restarts = Counter(
            f"{PREFIX}_engine_failures",
            "Engines that died, hung or did not come up",
            ("model", "kind"),
            registry=registry,
        )
        self.in_flight = Gauge(
            f"{PREFIX}_in_flight", "Requests at an engine", ("model",), registry=registry
        )
        self.queued = Gauge(
            f"{PREFIX}_queued", "Requests that wait for an engine", ("model",), registry=registry
        )
        self.state = Gauge(
            f"{PREFIX}_engine_state",
            "1 for the state it is in",
            ("model", "state"),
            registry=registry,
        )
        self.memory = Gauge(
            f"{PREFIX}_memory_mib",
            "Memory by device: total, budget, reserved, free",
            ("device", "kind"),
            registry=registry,
        )

    def exposition(self) -> bytes:
        self.refresh()
        return generate_latest(self.registry)
