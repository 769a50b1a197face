"""Prometheus metrics of this process. Counted when a run ends, so that nothing counts twice."""

from prometheus_client import Counter, Gauge, Histogram

from contracts.chat import ENDED, ChatResponse

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

RUNS = Counter("variet_runs", "Runs that have ended, by how", ["status"])
RUN_SECONDS = Histogram("variet_run_seconds", "Time a run was driven, rests aside", buckets=SECONDS)
TOKENS = Counter("variet_tokens", "Tokens that the engine counted, by kind", ["kind"])
TOOL_CALLS = Counter("variet_tool_calls", "Tool calls of ended runs", ["tool", "status"])
LIVE_RUNS = Gauge("variet_live_runs", "Runs that this process drives now")

for _status in sorted(ENDED):
    RUNS.labels(_status)
for _kind in ("prompt", "completion"):
    TOKENS.labels(_kind)


def count(response: ChatResponse) -> None:
    """Count a run that has ended; one that rests is counted when it has ended too."""
    if response.status not in ENDED:
        return
    RUNS.labels(response.status).inc()
    RUN_SECONDS.observe(response.latency_ms / 1000)
    TOKENS.labels("prompt").inc(response.usage.prompt_tokens)
    TOKENS.labels("completion").inc(response.usage.completion_tokens)
    for call in response.tool_calls:
        # A model can make up any name: those that are no tool share one label.
        unknown = call.error is not None and call.error.code == "unknown_tool"
        TOOL_CALLS.labels("(unknown)" if unknown else call.name, call.status).inc()
