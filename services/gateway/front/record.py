"""What is kept of a request: one line of the access log, and its share of the figures.

Neither prompts nor keys are ever in it.
"""

import asyncio
import logging
import sys
import time
from dataclasses import dataclass
from typing import Any

import orjson
from prometheus_client import Counter, Gauge, Histogram

from contracts.tiers import Priority
from services.gateway.metrics import Metrics

access = logging.getLogger("services.gateway.access")
CLIENT_LEFT = 499
NO_MODEL = "none"
FLUSH_S = 0.1


@dataclass(slots=True)
class Record:
    """One request. Times are of `time.perf_counter`; `tokens_per_s` is what the engine told."""

    route: str
    request_id: str
    began: float
    key: str = ""
    asked: str = ""
    engine: str = ""
    status: int = 0
    priority: Priority = "chat"
    granted: float | None = None
    first_byte: float | None = None
    sent: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    tokens_per_s: float | None = None
    cancelled: bool = False
    quiet: bool = False

    @property
    def queue_ms(self) -> int:
        return round(1_000 * ((self.granted or self.began) - self.began))


def log_to_stdout() -> None:
    """Have the access log written, one JSON object a line, whatever the other logs look like."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    access.handlers[:] = [handler]
    access.setLevel(logging.INFO)
    access.propagate = False


class Book:
    """Takes the records of requests that ended. Labels are looked up once each, and lines are
    written a few at a time."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._requests: dict[tuple[str, str, int], Counter] = {}
        self._models: dict[tuple[str, Priority], _Figures] = {}
        self._lines: list[str] = []
        self._loop = asyncio.get_running_loop()

    def close(self, record: Record) -> None:
        if not record.quiet:
            self._count(record)
        if access.isEnabledFor(logging.DEBUG if record.quiet else logging.INFO):
            if not self._lines:
                self._loop.call_later(FLUSH_S, self.flush)
            self._lines.append(_line(record, time.perf_counter()))

    def flush(self) -> None:
        """Write the lines that wait."""
        lines, self._lines = self._lines, []
        if lines:
            access.info("\n".join(lines))

    def _count(self, record: Record) -> None:
        model = record.engine or NO_MODEL
        place = (model, record.route, record.status)
        requests = self._requests.get(place)
        if requests is None:
            requests = self._metrics.requests.labels(model, record.route, str(record.status))
            self._requests[place] = requests
        requests.inc()
        figures = self._models.get((model, record.priority))
        if figures is None:
            figures = _Figures(self._metrics, model, record.priority)
            self._models[model, record.priority] = figures
        figures.add(record)


class _Figures:
    def __init__(self, metrics: Metrics, model: str, priority: Priority) -> None:
        self._wait: Histogram = metrics.queue_wait.labels(model, priority)
        self._first: Histogram = metrics.first_token.labels(model)
        self._prompt: Counter = metrics.tokens.labels(model, "prompt")
        self._tokens: Counter = metrics.tokens.labels(model, "completion")
        self._speed: Gauge = metrics.tokens_per_s.labels(model)
        self._cancelled: Counter = metrics.cancelled.labels(model)

    def add(self, record: Record) -> None:
        if record.granted is not None:
            self._wait.observe(record.granted - record.began)
            if record.first_byte is not None:
                self._first.observe(max(0.0, record.first_byte - record.granted))
        if record.prompt_tokens:
            self._prompt.inc(record.prompt_tokens)
        if record.tokens:
            self._tokens.inc(record.tokens)
        if record.tokens_per_s is not None:
            self._speed.set(record.tokens_per_s)
        if record.cancelled:
            self._cancelled.inc()


def _line(record: Record, now: float) -> str:
    first = record.first_byte
    told: dict[str, Any] = {
        "time": round(time.time(), 3),
        "request_id": record.request_id,
        "route": record.route,
        "model": record.asked,
        "engine": record.engine,
        "status": record.status,
        "queue_ms": record.queue_ms,
        "first_byte_ms": None if first is None else round(1_000 * (first - record.began)),
        "total_ms": round(1_000 * (now - record.began)),
        "bytes": record.sent,
        "prompt_tokens": record.prompt_tokens,
        "tokens": record.tokens,
        "cancelled": record.cancelled,
        "key": record.key,
    }
    return orjson.dumps(told).decode()
