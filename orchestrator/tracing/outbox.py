"""A thread that posts encoded turns, and keeps them while the server does not take them."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from orchestrator.tracing.record import TurnRecord

log = logging.getLogger(__name__)

INBOX_TURNS = 1_000
KEPT_BYTES = 32 * 2**20
BATCH_BYTES = 2**20
LINGER_S = 0.5
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a post.

    `away` and `keys`: the same again later may succeed, for `keys` once they are right.
    `refused`: it never will. `reason` is for the log.
    """

    kind: Literal["sent", "away", "keys", "refused"]
    reason: str = ""


class Outbox:
    """Sends turns in order, from a daemon thread of its own, so that nobody waits for it.

    `encode` makes bytes of a turn; encoded turns may be concatenated. `post` sends bytes and must
    return in bounded time. While the server is away at most 32 MiB are kept; the oldest go first.
    An outage is logged once when it begins and once when it is over; turns that are dropped for
    another reason are logged once.
    """

    def __init__(
        self,
        encode: Callable[[TurnRecord], bytes],
        post: Callable[[bytes], Outcome],
        *,
        linger_s: float = LINGER_S,
        first_retry_s: float = FIRST_RETRY_S,
    ) -> None:
        self._encode = encode
        self._post = post
        self._linger_s = linger_s
        self._first_retry_s = first_retry_s
        self._inbox: deque[TurnRecord] = deque(maxlen=INBOX_TURNS)
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._retry_s = 0.0
        self._retry_at = 0.0
        self._complaints: set[str] = set()
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trace-export", daemon=True)
        self._thread.start()

    def put(self, turn: TurnRecord) -> None:
        """Take a turn. Constant time; the oldest turn goes when a thousand wait to be encoded."""
        if self._closed.is_set():
            return
        self._inbox.append(turn)
        self._wake.set()

    def close(self, timeout_s: float) -> None:
        """Send what is left, and return after `timeout_s` whether or not it went."""
        self._closed.set()
        self._wake.set()
        self._thread.join(timeout_s)
        if left := len(self._kept) + len(self._inbox):
            log.warning("%d traces could not be sent before the end.", left)

    def _run(self) -> None:
        while not self._closed.is_set():
            self._wake.wait(self._pause())
            # Turns that end together share a request.
            if self._closed.wait(self._linger_s):
                break
            self._wake.clear()
            self._collect()
            if time.monotonic() >= self._retry_at:
                self._flush()
        self._collect()
        self._flush()

    def _pause(self) -> float | None:
        return max(0.0, self._retry_at - time.monotonic()) if self._kept else None

    def _collect(self) -> None:
        while self._inbox:
            try:
                encoded = self._encode(self._inbox.popleft())
            except Exception as error:  # boundary: a turn that cannot be encoded harms no other
                self._complain(
                    "encode", f"A trace could not be encoded and was dropped: {error!r}."
                )
                continue
            if encoded:
                self._kept.append(encoded)
                self._kept_bytes += len(encoded)
        while self._kept_bytes > KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popleft())
            self._complain("full", "Too many traces wait to be sent: the oldest are dropped.")

    def _flush(self) -> None:
        alone = 0
        while self._kept:
            count = 1 if alone else self._batch_count()
            alone = max(0, alone - 1)
            outcome = self._try_post(count)
            if outcome.kind in ("away", "keys"):
                self._begin_outage(outcome)
                return
            if outcome.kind == "refused" and count > 1:
                # One bad turn must not take its neighbours with it.
                alone = count
                continue
            for _ in range(count):
                self._kept_bytes -= len(self._kept.popleft())
            if outcome.kind == "refused":
                self._complain("refused", f"{outcome.reason} The trace is dropped.")
            else:
                self._end_outage()

    def _batch_count(self) -> int:
        size = 0
        for count, encoded in enumerate(self._kept):
            size += len(encoded)
            if count and size > BATCH_BYTES:
                return count
        return len(self._kept)

    def _try_post(self, count: int) -> Outcome:
        body = b"".join(islice(self._kept, count))
        try:
            return self._post(body)
        except Exception as error:  # boundary: the thread has to outlive whatever the network does
            return Outcome("away", f"A trace could not be sent: {error!r}.")

    def _begin_outage(self, outcome: Outcome) -> None:
        self._retry_s = min(self._retry_s * 2, LAST_RETRY_S) or self._first_retry_s
        self._retry_at = time.monotonic() + self._retry_s
        self._complain(outcome.kind, f"{outcome.reason} Traces are kept and sent later.")

    def _end_outage(self) -> None:
        if self._retry_s:
            log.info("Traces are sent again.")
        self._retry_s = self._retry_at = 0.0
        self._complaints -= {"away", "keys", "full"}

    def _complain(self, kind: str, message: str) -> None:
        log.log(logging.DEBUG if kind in self._complaints else logging.WARNING, message)
        self._complaints.add(kind)
