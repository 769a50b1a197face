"""An OTLP server on loopback that decodes what arrives, and can refuse, redirect or hang."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Span:
    """A span as it arrived. Ids are hex; a root's `parent_id` is empty."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    started_ns: int
    ended_ns: int
    is_error: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]

    @property
    def input(self) -> Any:
        return self.attributes.get("langfuse.observation.input")

    @property
    def output(self) -> Any:
        return self.attributes.get("langfuse.observation.output")

    @property
    def type(self) -> Any:
        return self.attributes["langfuse.observation.type"]

    @property
    def usage(self) -> Any:
        return json.loads(self.attributes["langfuse.observation.usage_details"])


@dataclass
class OtlpReceiver:
    """`status` is what it answers from now on; None: it takes the request and never answers."""

    url: str = ""
    status: int | None = 200
    spans: list[Span] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    released: threading.Event = field(default_factory=threading.Event)

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 10) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, timeout_s), (
                f"after {timeout_s} s: {len(self.requests)} requests, {len(self.spans)} spans"
            )

    def wait_for_spans(self, count: int) -> list[Span]:
        self.wait_for(lambda: len(self.spans) >= count)
        return list(self.spans)

    def take(self, path: str, headers: dict[str, str], body: bytes) -> int | None:
        with self.changed:
            self.requests.append((path, headers))
            if self.status == 200:
                self.spans += _decode(body)
            self.changed.notify_all()
            return self.status


@contextmanager
def otlp_receiver(status: int | None = 200) -> Iterator[OtlpReceiver]:
    receiver = OtlpReceiver(status=status)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = receiver.take(self.path, headers, body)
            if answer is None:
                receiver.released.wait()
                return
            self.send_response(answer)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _decode(body: bytes) -> list[Span]:
    request = ExportTraceServiceRequest()
    request.ParseFromString(body)
    return [
        _span(span, _attributes(group.resource.attributes))
        for group in request.resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


def _span(span: Any, resource: dict[str, Any]) -> Span:
    return Span(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        started_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        is_error=span.status.code == span.status.STATUS_CODE_ERROR,
        attributes=_attributes(span.attributes),
        resource=resource,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None
