"""Searching a folder of log files."""

import heapq
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from datetime import time as clock_time
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path

import regex as timed_regex  # type: ignore[import-untyped]

from contracts.errors import BadRequest, NotFound, Unprocessable
from contracts.tools import LogLine, LogMatches
from tools.files import regular_files
from tools.logs.entries import LEVELS, Entry
from tools.logs.reading import Reader, newest_first

MAX_TEXT_LETTERS = 600
MAX_PATTERN_LETTERS = 500
MAX_REPEATS = 10_000  # nested counts are unrolled when a pattern is compiled
REGEX_BUDGET_S = 3.0

COUNTS = re.compile(r"(?:\{|,)(\d{1,9})(?=[,}])")
CLOCK = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?")
ISO_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(:\d\d)?(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?"
)
UNPRINTABLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?")
# Also halves of surrogate pairs, which JSON can hold and no answer can carry.
CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


@dataclass(frozen=True, slots=True)
class Bound:
    """A point in time: a moment, or a time of day on any day. `step` is its precision."""

    moment: datetime | None
    clock: clock_time | None
    step: timedelta

    def is_before(self, moment: datetime) -> bool:
        """Whether an entry at `moment` is at or after this bound."""
        if self.moment is not None:
            return moment >= self.moment
        assert self.clock is not None
        return moment.time() >= self.clock

    def is_after(self, moment: datetime) -> bool:
        """Whether an entry at `moment` is before this bound, or within its precision."""
        if self.moment is not None:
            return moment < self.moment + self.step
        assert self.clock is not None
        end = datetime.combine(moment.date(), self.clock) + self.step
        return moment < end


class Filter:
    """What an entry has to be. Words and level are case-insensitive; all conditions hold."""

    def __init__(
        self,
        query: str | None = None,
        level: str | None = None,
        since: str | None = None,
        until: str | None = None,
        pattern: str | None = None,
    ) -> None:
        self.words = (query or "").casefold().split()
        self.levels = frozenset(LEVELS[LEVELS.index(level) :]) if level else None
        self.since = parse_bound("since", since) if since else None
        self.until = parse_bound("until", until) if until else None
        self.pattern = _compiled(pattern) if pattern else None
        self.budget_s = REGEX_BUDGET_S

    def accepts(self, entry: Entry) -> bool:
        if self.levels is not None and entry.level not in self.levels:
            return False
        if not self._in_time(entry.moment):
            return False
        if not self.words and self.pattern is None:
            return True
        whole = entry.whole
        folded = whole.casefold()
        return all(word in folded for word in self.words) and self._matches(whole)

    def _in_time(self, moment: datetime | None) -> bool:
        if self.since is None and self.until is None:
            return True
        if moment is None:
            return False
        return (self.since is None or self.since.is_before(moment)) and (
            self.until is None or self.until.is_after(moment)
        )

    def _matches(self, text: str) -> bool:
        """Whether the pattern is found, within the time that the whole search has for patterns."""
        if self.pattern is None:
            return True
        started = time.monotonic()
        try:
            # concurrent: the interpreter is free for others while a pattern is searched.
            found = self.pattern.search(text, timeout=max(self.budget_s, 0.001), concurrent=True)
            return found is not None
        except TimeoutError as error:
            raise Unprocessable(
                "slow_regex",
                f"regex: the pattern {self.pattern.pattern!r:.80} took longer than"
                f" {REGEX_BUDGET_S:g} s.",
                "Use a simpler pattern, without nested repetition, or query.",
            ) from error
        finally:
            self.budget_s -= time.monotonic() - started


def search(logs_dir: Path, wanted: Filter, file: str | None, limit: int) -> LogMatches:
    """The matching entries of all files, oldest first, the first `limit` of them."""
    reader = Reader(datetime.now(UTC).date())
    matched = 0

    def matches() -> Iterator[tuple[datetime, str, int, Entry]]:
        nonlocal matched
        for path in newest_first(_chosen(logs_dir, file)):
            last = datetime.min
            for entry in reader.entries(path):
                last = entry.moment or last
                if wanted.accepts(entry):
                    matched += 1
                    yield last, path.name, entry.line, entry

    first = heapq.nsmallest(limit, matches(), key=lambda found: found[:3])
    lines = [
        LogLine(source=f"{name}:{line}", time=entry.time, level=entry.level, text=_clipped(entry))
        for _, name, line, entry in first
    ]
    return LogMatches(matched=matched, lines=lines, files=sorted(reader.searched))


def parse_bound(key: str, text: str) -> Bound:
    """A time limit: `2026-11-20`, `2026-11-20T14:05`, with seconds, or `14:05` of any day.
    Times are compared as the logs write them, whatever their zone. Raises BadRequest."""
    try:
        if found := CLOCK.fullmatch(text.strip()):
            hour, minute, second = (int(group or 0) for group in found.groups())
            step = timedelta(seconds=1) if found[3] else timedelta(minutes=1)
            return Bound(None, clock_time(hour, minute, second), step)
        if found := ISO_TIME.fullmatch(text.strip()):
            day, minutes, seconds = found.groups()
            moment = datetime.fromisoformat(f"{day}T{minutes or '00:00'}{seconds or ''}")
            step = timedelta(seconds=1) if seconds else timedelta(minutes=1)
            return Bound(moment, None, step if minutes else timedelta(days=1))
    except ValueError as error:
        raise _bad_time(key, text) from error
    raise _bad_time(key, text)


def _chosen(logs_dir: Path, file: str | None) -> list[Path]:
    paths = regular_files(logs_dir)
    if not file:
        return paths
    chosen = [path for path in paths if fnmatchcase(path.name.lower(), file.lower())]
    if not chosen:
        names = ", ".join(path.name for path in paths[:20]) or "none"
        raise NotFound(
            "no_file", f"file: no log file matches {file!r:.80}.", f"The log files are: {names}."
        )
    return chosen


def _compiled(pattern: str) -> "timed_regex.Pattern[str]":
    repeats = prod(max(int(count), 1) for count in COUNTS.findall(pattern))
    if len(pattern) > MAX_PATTERN_LETTERS or repeats > MAX_REPEATS:
        raise BadRequest(
            "bad_regex",
            f"regex is too large: {len(pattern)} letters (at most {MAX_PATTERN_LETTERS}), counts"
            f" whose product is {repeats} (at most {MAX_REPEATS}).",
            "Use a shorter pattern, without large counts.",
        )
    try:
        return timed_regex.compile(pattern, timed_regex.IGNORECASE | timed_regex.MULTILINE)
    except timed_regex.error as error:
        raise BadRequest(
            "bad_regex", f"regex {pattern!r:.80}: {error}.", "Correct the pattern, or use query."
        ) from error


def _bad_time(key: str, text: str) -> BadRequest:
    return BadRequest(
        "bad_time",
        f"{key}={text!r:.60} is no time.",
        "Use 2026-11-20, 2026-11-20T14:05 or 14:05 (of any day).",
    )


def _clipped(entry: Entry) -> str:
    """The entry's text without control characters; of a long one the beginning and the end, where
    a stack trace has its error."""
    text = CONTROLS.sub("", UNPRINTABLE.sub("", entry.whole)).rstrip()
    if len(text) <= MAX_TEXT_LETTERS:
        return text
    half = MAX_TEXT_LETTERS // 2
    return f"{text[:half]} [...] {text[-half:]}"
