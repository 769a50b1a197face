import base64
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from langfuse import Langfuse
from opentelemetry import trace as global_trace
from pydantic import SecretStr

from contracts.settings import Settings
from orchestrator.tracing import NoTracer, SpanRecord, TurnRecord, make_tracer
from orchestrator.tracing.langfuse import LangfuseTracer
from orchestrator.tracing.masking import MASK, mask, names_secret
from orchestrator.tracing.outbox import Outbox, Outcome
from orchestrator.tracing.spans import SpanEncoder, trace_id
from tests.support.otlp_receiver import OtlpReceiver, Span, otlp_receiver

SECOND = 1_000_000_000
START = 1_790_000_000 * SECOND

ASKING = SpanRecord(
    kind="generation",
    name="model call 1",
    started_ns=START + SECOND,
    ended_ns=START + 2 * SECOND,
    input=[{"role": "user", "content": "Fix the cell"}],
    output={"tool_calls": [{"name": "apply_patch"}]},
    model="nano",
    prompt_tokens=120,
    completion_tokens=9,
    request_id="run_1.1",
)
PATCHING = SpanRecord(
    kind="tool",
    name="apply_patch",
    started_ns=START + 60 * SECOND,
    ended_ns=START + 61 * SECOND,
    input={"cell_edits": [{"map": "boost_target", "row": 1, "column": 2, "value": 1.4}]},
    output={"status": "applied"},
)
ANSWERING = replace(
    ASKING, name="model call 2", started_ns=START + 62 * SECOND, ended_ns=START + 63 * SECOND
)
WAITING = TurnRecord(
    run_id="run-1",
    thread_id="thread-1",
    user="ada",
    message="Fix the cell",
    answer="",
    status="awaiting_approval",
    model="nano",
    started_ns=START,
    ended_ns=START + 2 * SECOND,
    tags=("chat",),
    spans=(ASKING,),
)
DONE = replace(
    WAITING,
    answer="Done.",
    status="completed",
    ended_ns=START + 63 * SECOND,
    spans=(PATCHING, ANSWERING),
)


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with otlp_receiver() as running:
        yield running


def tracer_to(url: str) -> LangfuseTracer:
    return LangfuseTracer(url, "pk-lf-1", "sk-lf-1", linger_s=0, first_retry_s=0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def by_name(spans: list[Span]) -> dict[str, Span]:
    return {span.name: span for span in spans}


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_turn_across_an_approval_is_one_trace_with_one_root(
    receiver: OtlpReceiver,
) -> None:
    tracer = tracer_to(receiver.url)
    tracer.record(WAITING)
    receiver.wait_for_spans(1)
    assert not any(span.parent_id == "" for span in receiver.spans)
    tracer.record(DONE)
    spans = by_name(receiver.wait_for_spans(4))
    await tracer.close()

    assert len(receiver.spans) == 4
    assert {span.trace_id for span in spans.values()} == {Langfuse.create_trace_id(seed="run-1")}
    root = spans.pop("turn")
    assert root.parent_id == ""
    assert {span.parent_id for span in spans.values()} == {root.span_id}
    assert list(spans) == ["model call 1", "apply_patch", "model call 2"]


async def test_the_second_half_joins_its_trace_from_another_process(
    receiver: OtlpReceiver,
) -> None:
    for half in (WAITING, DONE):
        tracer = tracer_to(receiver.url)
        tracer.record(half)
        await tracer.close()

    spans = receiver.wait_for_spans(4)
    roots = [span.span_id for span in spans if not span.parent_id]
    assert len(roots) == 1
    assert {span.parent_id for span in spans if span.parent_id} == set(roots)


def test_a_turn_recorded_again_has_the_same_ids_and_twins_differ() -> None:
    twice = replace(DONE, spans=(PATCHING, PATCHING))

    assert SpanEncoder().encode(twice) == SpanEncoder().encode(twice)
    with otlp_receiver() as receiver:
        receiver.take("/", {}, SpanEncoder().encode(twice))
    assert len({span.span_id for span in receiver.spans}) == 3


async def test_every_span_carries_session_user_tags_and_trace_name(receiver: OtlpReceiver) -> None:
    tracer = tracer_to(receiver.url)
    tracer.record(replace(DONE, spans=(ASKING, PATCHING, ANSWERING)))
    spans = receiver.wait_for_spans(4)
    await tracer.close()

    for span in spans:
        assert span.attributes["session.id"] == "thread-1"
        assert span.attributes["user.id"] == "ada"
        assert span.attributes["langfuse.trace.tags"] == ["chat"]
        assert span.attributes["langfuse.trace.name"] == "turn"
        assert span.resource["service.name"] == "variet"


async def test_generations_have_model_usage_and_times(receiver: OtlpReceiver) -> None:
    tracer = tracer_to(receiver.url)
    tracer.record(WAITING)
    (span,) = receiver.wait_for_spans(1)
    await tracer.close()

    assert span.type == "generation"
    assert span.attributes["langfuse.observation.model.name"] == "nano"
    assert span.usage == {"input": 120, "output": 9}
    assert span.attributes["langfuse.observation.metadata.request_id"] == "run_1.1"
    assert (span.started_ns, span.ended_ns) == (ASKING.started_ns, ASKING.ended_ns)
    assert span.input == '[{"role": "user", "content": "Fix the cell"}]'
    assert "apply_patch" in span.output


async def test_tools_stages_and_the_root_have_their_types_inputs_and_outputs(
    receiver: OtlpReceiver,
) -> None:
    stage = SpanRecord("stage", "retrieve", START, START + SECOND)
    tracer = tracer_to(receiver.url)
    tracer.record(replace(DONE, spans=(stage, PATCHING)))
    spans = by_name(receiver.wait_for_spans(3))
    await tracer.close()

    tool, root = spans["apply_patch"], spans["turn"]
    assert (tool.type, spans["retrieve"].type, root.type) == ("tool", "span", "agent")
    assert '"boost_target"' in tool.input
    assert tool.output == '{"status": "applied"}'
    assert (root.input, root.output) == ("Fix the cell", "Done.")
    assert (root.started_ns, root.ended_ns) == (DONE.started_ns, DONE.ended_ns)
    assert root.attributes["langfuse.observation.metadata.status"] == "completed"
    assert spans["retrieve"].input is None


async def test_failures_are_errors_with_their_message(receiver: OtlpReceiver) -> None:
    broken = replace(PATCHING, output=None, level="ERROR", message="patch does not apply")
    tracer = tracer_to(receiver.url)
    tracer.record(replace(DONE, status="failed", spans=(broken,)))
    spans = by_name(receiver.wait_for_spans(2))
    await tracer.close()

    for span in spans.values():
        assert span.is_error
        assert span.attributes["langfuse.observation.level"] == "ERROR"
    message = spans["apply_patch"].attributes["langfuse.observation.status_message"]
    assert message == "patch does not apply"


async def test_secrets_never_leave_the_process(receiver: OtlpReceiver) -> None:
    leaking = replace(
        PATCHING,
        input={"arguments": '{"api_key": "hunter2"}', "headers": {"Authorization": "hunter2"}},
        output="line\nDB_PASSWORD=hunter2\n",
        message="Bearer hunter2hunter2",
    )
    tracer = tracer_to(receiver.url)
    tracer.record(replace(DONE, message="password: hunter2", spans=(leaking,)))
    spans = receiver.wait_for_spans(2)
    await tracer.close()

    assert "hunter2" not in repr(spans)
    assert MASK in repr(spans)


async def test_requests_are_authenticated_and_go_to_langfuses_otlp_route(
    receiver: OtlpReceiver,
) -> None:
    tracer = tracer_to(receiver.url)
    tracer.record(WAITING)
    receiver.wait_for_spans(1)
    await tracer.close()

    ((path, headers),) = receiver.requests
    assert path == "/api/public/otel/v1/traces"
    assert base64.b64decode(headers["authorization"].removeprefix("Basic ")) == b"pk-lf-1:sk-lf-1"
    assert headers["content-type"] == "application/x-protobuf"
    assert headers["x-langfuse-ingestion-version"] == "4"


async def test_turns_of_an_outage_arrive_in_order_when_the_server_is_back(
    receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    receiver.status = 503
    tracer = tracer_to(receiver.url)
    tracer.record(WAITING)
    receiver.wait_for(lambda: len(receiver.requests) >= 2)
    tracer.record(DONE)
    receiver.status = 200
    receiver.wait_for_spans(4)
    await tracer.close()

    assert [span.name for span in receiver.spans] == [
        "model call 1",
        "apply_patch",
        "model call 2",
        "turn",
    ]
    assert len(warnings_in(caplog)) == 1
    assert "503" in warnings_in(caplog)[0]
    assert caplog.messages[-1] == "Traces are sent again."


async def test_wrong_keys_are_reported_once(
    receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.status = 401
    tracer = tracer_to(receiver.url)
    for _ in range(3):
        tracer.record(WAITING)
    receiver.wait_for(lambda: len(receiver.requests) >= 3)

    (warning,) = warnings_in(caplog)
    assert "LANGFUSE_SECRET_KEY" in warning
    assert "sk-lf-1" not in warning
    await tracer.close()


async def test_a_refused_turn_does_not_take_its_neighbours_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    posted: list[bytes] = []

    def post(body: bytes) -> Outcome:
        if b"bad" in body:
            return Outcome("refused", "Refused.")
        posted.append(body)
        return Outcome("sent")

    outbox = Outbox(lambda turn: turn.run_id.encode(), post, linger_s=60)
    for run in ("one", "bad", "two", "bad", "three"):
        outbox.put(replace(WAITING, run_id=run))
    outbox.close(10)

    assert b"".join(posted) == b"onetwothree"
    assert warnings_in(caplog) == ["Refused. The trace is dropped."]


def test_a_turn_that_cannot_be_encoded_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    posted: list[bytes] = []

    def encode(turn: TurnRecord) -> bytes:
        if turn.run_id == "bad":
            raise ValueError("no")
        return turn.run_id.encode()

    def post(body: bytes) -> Outcome:
        posted.append(body)
        return Outcome("sent")

    outbox = Outbox(encode, post, linger_s=60)
    for run in ("bad", "good", "bad"):
        outbox.put(replace(WAITING, run_id=run))
    outbox.close(10)

    assert posted == [b"good"]
    assert len(warnings_in(caplog)) == 1


def test_what_waits_for_a_dead_server_is_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("orchestrator.tracing.outbox.KEPT_BYTES", 30)
    posted: list[bytes] = []

    def post(body: bytes) -> Outcome:
        posted.append(body)
        return Outcome("away", "Away.")

    outbox = Outbox(lambda turn: turn.run_id.encode(), post, linger_s=60)
    for number in range(100):
        outbox.put(replace(WAITING, run_id=f"{number:010}"))
    outbox.close(10)

    assert posted == [b"000000009700000000980000000099"]
    assert len(warnings_in(caplog)) == 3


async def test_a_refused_connection_is_reported_once_and_close_is_prompt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracer = tracer_to(f"http://127.0.0.1:{free_port()}")
    for _ in range(50):
        tracer.record(DONE)
    started = time.monotonic()
    await tracer.close()

    assert time.monotonic() - started < 2.5
    first, last = warnings_in(caplog)
    assert "does not answer" in first
    assert last == "50 traces could not be sent before the end."


async def test_record_returns_while_the_server_hangs_and_close_keeps_its_deadline(
    receiver: OtlpReceiver,
) -> None:
    receiver.status = None
    tracer = tracer_to(receiver.url)
    tracer.record(WAITING)
    receiver.wait_for(lambda: len(receiver.requests) == 1)
    for _ in range(5_000):
        tracer.record(DONE)
    # The first request is still unanswered, so none of these calls waited for the server.
    assert len(receiver.requests) == 1
    started = time.monotonic()
    await tracer.close()

    assert time.monotonic() - started < 2.5
    tracer.record(DONE)


def test_a_process_ends_promptly_with_a_hung_server(receiver: OtlpReceiver) -> None:
    receiver.status = None
    program = f"""
import asyncio, time
from contracts.settings import Settings
from orchestrator.tracing import TurnRecord, make_tracer

async def main():
    tracer = make_tracer(Settings(
        _env_file=None, langfuse_base_url={receiver.url!r},
        langfuse_public_key="pk", langfuse_secret_key="sk",
    ))
    tracer.record(TurnRecord("r", "t", "u", "m", "a", "completed", "nano", 1, 2))
    started = time.time()
    await tracer.close()
    print(time.time() - started, time.time(), flush=True)

asyncio.run(main())
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    ended = time.time()

    assert result.returncode == 0, result.stderr
    closing_s, closed_at = map(float, result.stdout.split())
    assert closing_s < 2.5
    assert ended - closed_at < 1.5
    assert len(receiver.requests) == 1


async def test_a_redirect_is_an_outage_not_a_success(
    receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.status = 301
    tracer = tracer_to(receiver.url)
    tracer.record(WAITING)
    receiver.wait_for(lambda: len(receiver.requests) >= 2)

    (warning,) = warnings_in(caplog)
    assert "301" in warning
    assert {path for path, _ in receiver.requests} == {"/api/public/otel/v1/traces"}
    await tracer.close()


def test_without_keys_nothing_is_traced_and_nothing_is_imported() -> None:
    program = """
import sys
from contracts.settings import Settings
from orchestrator.tracing import NoTracer, make_tracer
tracer = make_tracer(Settings(_env_file=None))
assert isinstance(tracer, NoTracer) and tracer.trace_url("r") is None
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"langfuse", "opentelemetry"}, loaded
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env={})


@pytest.mark.parametrize("missing", ["langfuse_public_key", "langfuse_secret_key"])
def test_one_missing_key_means_no_tracing(missing: str) -> None:
    values: dict[str, Any] = {
        "langfuse_base_url": "http://127.0.0.1:1",
        "langfuse_public_key": "pk",
        "langfuse_secret_key": "sk",
        missing: None,
    }
    assert isinstance(make_tracer(Settings(_env_file=None, **values)), NoTracer)


async def test_the_trace_address_and_id_are_langfuses_and_the_global_provider_is_untouched() -> (
    None
):
    before = global_trace.get_tracer_provider()
    tracer = tracer_to("http://langfuse.test")

    assert trace_id("run-1") == Langfuse.create_trace_id(seed="run-1")
    assert tracer.trace_url("run-1") == f"http://langfuse.test/trace/{trace_id('run-1')}"
    assert global_trace.get_tracer_provider() is before
    await tracer.close()


@pytest.mark.parametrize(
    "key",
    ["password", "API_KEY", "apiKey", "X-Api-Key", "clientSecret", "access_token", "HF_TOKEN"],
)
def test_keys_that_name_secrets_are_known(key: str) -> None:
    assert names_secret(key)


@pytest.mark.parametrize("key", ["key", "prompt_tokens", "max_tokens", "keyboard", "map", ""])
def test_keys_of_plain_values_are_left_alone(key: str) -> None:
    assert not names_secret(key)


def test_masking_keeps_everything_else_as_it_is() -> None:
    plain = {
        "map": "boost_target",
        "rows": [1, 2.5, None, True],
        "text": "Basic information: the key is row=3, max_tokens: 10",
        "json": '{"b": 1,  "a": [2]}',
        "token": 3,
    }
    assert mask(plain) == plain


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("LANGFUSE_SECRET_KEY=sk-1 x", f"LANGFUSE_SECRET_KEY={MASK} x"),
        ("password: 'a b'", f"password: '{MASK}'"),
        ('password="a b" c', f'password="{MASK}" c'),
        ('password="cut off', f'password="{MASK} off'),
        ("password = 's3;cret'", f"password = '{MASK}'"),
        ("curl -H 'Authorization: Basic abc'", f"curl -H 'Authorization: {MASK}'"),
        ("with Bearer abc12345.def", f"with Bearer {MASK}"),
        ('{"a": {"token": "x"}}', '{"a": {"token": "***"}}'),
        ("{token: x, b: 1}", f"{{token: {MASK}, b: 1}}"),
    ],
)
def test_secrets_in_text_are_masked(text: str, masked: str) -> None:
    assert mask(text) == masked


def test_masking_takes_any_nesting_and_size() -> None:
    deep: Any = "x"
    for _ in range(200):
        deep = [deep]
    assert MASK in repr(mask(deep))
    assert mask("[" * 100_000) == "[" * 100_000
    assert mask("a" * 300_000) == "a" * 300_000


async def test_links_to_traces_have_the_address_that_people_know() -> None:
    settings = Settings(
        _env_file=None,
        langfuse_base_url="http://langfuse-web:3000",
        langfuse_public_url="http://127.0.0.1:3000",
        langfuse_public_key="pk-lf-1",
        langfuse_secret_key=SecretStr("sk-lf-1"),
    )
    tracer = make_tracer(settings)
    assert tracer.trace_url("run-1") == f"http://127.0.0.1:3000/trace/{trace_id('run-1')}"
    await tracer.close()
