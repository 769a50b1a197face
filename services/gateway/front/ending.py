"""What the end of an answer tells: whether it is whole, and its figures.

Only the last bytes are looked at, and only once the answer has ended.
"""

import re

from services.gateway.front.record import Record

KEPT = 4_096
DONE = b"data: [DONE]"
# A quote within JSON text carries a backslash, so these never match what a model wrote.
NUMBERS = {
    name: re.compile(rb'"%s"\s*:\s*(\d+(?:\.\d+)?)' % name.encode())
    for name in (
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "prompt_n",
        "cache_n",
        "predicted_n",
        "predicted_per_second",
    )
}
ERROR = re.compile(rb'data:\s*\{\s*"error"\s*:')


def is_done(tail: bytes) -> bool:
    return tail.rstrip().endswith((DONE, b"data:[DONE]"))


def tells_error(tail: bytes) -> bool:
    """Whether the last event is an error that the engine tells by itself."""
    return ERROR.match(tail.rstrip().rpartition(b"\n")[2]) is not None


def take_figures(record: Record, tail: bytes) -> None:
    """Tokens and speed, from `usage` and llama-server's `timings`."""
    at = tail.rfind(b'"usage"')
    if at >= 0:
        record.prompt_tokens = int(_number("prompt_tokens", tail, at) or 0)
        record.tokens = int(_number("completion_tokens", tail, at) or 0)
    at = tail.rfind(b'"timings"')
    if at < 0:
        return
    record.tokens_per_s = _number("predicted_per_second", tail, at)
    record.tokens = record.tokens or int(_number("predicted_n", tail, at) or 0)
    if not record.prompt_tokens:
        read = (_number("prompt_n", tail, at) or 0) + (_number("cache_n", tail, at) or 0)
        record.prompt_tokens = int(read)


def _number(name: str, tail: bytes, start: int) -> float | None:
    found = NUMBERS[name].search(tail, start)
    return float(found[1][:12]) if found else None
