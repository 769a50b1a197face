"""Lines typed while an answer streams."""

import select
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self


class TypedAhead:
    """While entered, watches a terminal's input: /stop is acted on at once, other lines are kept
    in `lines` for the next prompt. Without a terminal it does nothing.

    `paused` says when somebody else is reading the input, such as a question in between.
    """

    def __init__(self, lines: list[str], stop: Callable[[], None], paused: Callable[[], bool]):
        self._lines = lines
        self._stop = stop
        self._paused = paused
        self._done = threading.Event()
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> Self:
        if sys.stdin.isatty():
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._done.set()
        if self._watcher:
            self._watcher.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            typed, _, _ = select.select([sys.stdin], [], [], 0.1)
            # A prompt may have begun to read while this waited: the line is its own.
            if not typed or self._paused() or self._done.is_set():
                continue
            text = sys.stdin.readline()
            if not text:
                return
            if text.strip() == "/stop":
                self._stop()
            else:
                self._lines.append(text)
