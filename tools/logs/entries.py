"""Log files as entries: where one starts, its time, its level, and what belongs to it.

Known formats: Python logging and whatever else starts with an ISO time (also with 2026/11/20, as Go
and nginx write it), JSON lines, syslog (RFC 3164 and 5424), and `LEVEL:logger:message`. A line that
starts no entry, as in a stack trace, belongs to the timed one before it; elsewhere it is an entry
without a time, with the level that it begins with.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

LEVELS = ("debug", "info", "warning", "error", "critical")
NO_LEVEL = ""
MAX_ENTRY_LINES = 200

_NAMES = {
    "trace": "debug", "debug": "debug", "info": "info", "notice": "info", "warn": "warning",
    "warning": "warning", "err": "error", "error": "error", "crit": "critical",
    "critical": "critical", "fatal": "critical", "alert": "critical", "emerg": "critical",
}  # fmt: skip
_SYSLOG = ("critical", "critical", "critical", "error", "warning", "info", "info", "debug")
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_WORDS = "|".join(sorted(_NAMES, key=len, reverse=True))

ISO = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d|\d{4}/\d\d/\d\d)[T ]"
    r"(?P<clock>\d\d:\d\d(?::\d\d)?)(?:[.,](?P<part>\d{1,9}))?"
    r" ?(?P<zone>Z|[+-]\d\d:?\d\d)?(?=$|[^\w])"
)
LEVEL = re.compile(
    rf"\b(?:level|lvl|severity)=[\"']?(?P<key>{_WORDS})\b[\"']?"
    rf"|[\[(<](?P<box>{_WORDS})[\])>]"
    rf"|^(?P<start>{_WORDS}):",
    re.IGNORECASE,
)
CAPITALS = re.compile(rf"\b(?P<word>{_WORDS.upper()})\b")
BEGINNING = re.compile(rf"[\[(<](?i:({_WORDS}))[\])>]|(?i:({_WORDS})):|({_WORDS.upper()})(?=\s)")
SYSLOG = re.compile(
    rf"(?:<(?P<priority>\d{{1,3}})>)?(?P<month>{'|'.join(_MONTHS)}) +(?P<day>\d{{1,2}})"
    r" (?P<clock>\d\d:\d\d:\d\d) (?P<host>\S+) (?P<rest>.*)"
)
SYSLOG_5424 = re.compile(r"<(?P<priority>\d{1,3})>1 (?P<rest>.*)")
BARE = re.compile(r"(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL):(?P<logger>[\w.]+):(?P<rest>.*)")
SEPARATORS = " \t-|:]"
EDGES = " \t-|:[]()"

TIME_KEYS = ("time", "timestamp", "ts", "@timestamp", "asctime")
LEVEL_KEYS = ("level", "severity", "levelname", "lvl", "log.level")
TEXT_KEYS = ("message", "msg", "event", "text")
NAME_KEYS = ("logger", "name", "component")


@dataclass(slots=True)
class Entry:
    """One log entry. `moment` is the wall clock as written, without its zone; `time` is the same
    in ISO form with its zone, or empty. `level` is one of LEVELS, or empty: none was written."""

    line: int
    text: str
    moment: datetime | None = None
    time: str = ""
    level: str = NO_LEVEL
    more: list[str] = field(default_factory=list)

    @property
    def whole(self) -> str:
        return "\n".join([self.text, *self.more])


def read_entries(lines: Iterable[str], today: date, first_line: int = 1) -> Iterator[Entry]:
    """Group lines into entries. `today` decides the year of syslog times, which carry none."""
    current: Entry | None = None
    for number, line in enumerate(lines, first_line):
        started = _start(line, number, today)
        if started is None and current is not None and _belongs(line, current):
            current.more.append(line)
            continue
        if current is not None:
            yield current
        current = started or _untimed(line, number)
    if current is not None:
        yield current


def _belongs(line: str, entry: Entry) -> bool:
    """Whether a line without a time of its own goes on with the entry before it."""
    dated = entry.moment is not None or line[:1].isspace()
    return dated and len(entry.more) < MAX_ENTRY_LINES


def _start(line: str, number: int, today: date) -> Entry | None:
    """The entry that this line starts, if it starts one."""
    if line.startswith("{"):
        return _json_entry(line, number)
    if found := ISO.match(line.lstrip("[")):
        offset = len(line) - len(line.lstrip("["))
        return _timed(line[offset + found.end() :], number, found)
    if found := SYSLOG_5424.match(line):
        return _syslog_5424(found, number)
    if found := SYSLOG.match(line):
        return _syslog(found, number, today)
    if found := BARE.match(line):
        text = f"{found['logger']}: {found['rest'].strip()}"
        return Entry(number, text, level=_NAMES[found["level"].lower()])
    return None


def _untimed(line: str, number: int) -> Entry:
    found = BEGINNING.match(line)
    if found is None:
        return Entry(number, line)
    word = next(group for group in found.groups() if group)
    return Entry(number, line[found.end() :].strip(EDGES), level=_NAMES[word.lower()])


def _timed(rest: str, number: int, found: re.Match[str]) -> Entry | None:
    moment, time = _moment(found)
    if moment is None:
        return None
    level, text = split_level(rest.lstrip(SEPARATORS).rstrip())
    return Entry(number, text, moment, time, level)


def split_level(rest: str) -> tuple[str, str]:
    """The level among the first words of a line, and the line without it."""
    head = " ".join(rest.split(" ")[:5])[:120]
    found = LEVEL.search(head) or CAPITALS.search(head)
    if found is None:
        return NO_LEVEL, rest
    word = next(group for group in found.groups() if group)
    before, after = rest[: found.start()].strip(EDGES), rest[found.end() :].strip(EDGES)
    return _NAMES[word.lower()], f"{before}: {after}" if before and after else before or after


def _syslog(found: re.Match[str], number: int, today: date) -> Entry | None:
    month, day = _MONTHS.index(found["month"]) + 1, int(found["day"])
    clock = datetime.strptime(found["clock"], "%H:%M:%S").time()
    try:
        moment = datetime.combine(date(today.year, month, day), clock)
    except ValueError:
        return None
    if moment.date() > today + timedelta(days=1):
        moment = moment.replace(year=today.year - 1)
    level, text = _split_process(found["rest"])
    if found["priority"]:
        level = _SYSLOG[int(found["priority"]) & 7]
    return Entry(number, text, moment, moment.isoformat(), level)


def _split_process(rest: str) -> tuple[str, str]:
    """The level that a syslog message itself states, behind `process[7]:`."""
    process, colon, message = rest.partition(": ")
    level, text = split_level(message if colon else rest)
    return level, f"{process}: {text}" if colon else text


def _syslog_5424(found: re.Match[str], number: int) -> Entry | None:
    time = ISO.match(found["rest"])
    if time is None:
        return None
    entry = _timed("", number, time)
    fields = found["rest"].split(" ", 5)
    if entry is not None and len(fields) == 6:
        entry.text = f"{fields[2]}: {fields[5].removeprefix('- ')}"
        entry.level = _SYSLOG[int(found["priority"]) & 7]
    return entry


def _json_entry(line: str, number: int) -> Entry | None:
    try:
        body = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None
    moment, time = _json_time(_take(body, TIME_KEYS))
    level = _NAMES.get(str(_take(body, LEVEL_KEYS)).lower(), NO_LEVEL)
    name, text = _take(body, NAME_KEYS), str(_take(body, TEXT_KEYS) or "")
    rest = " ".join(f"{key}={value}" for key, value in body.items())
    text = " ".join(part for part in (f"{name}: {text}" if name else text, rest) if part)
    first, *more = text.split("\n")
    return Entry(number, first, moment, time, level, more)


def _take(body: dict[str, Any], keys: tuple[str, ...]) -> Any:
    for key in keys:
        if key in body:
            return body.pop(key)
    return None


def _json_time(value: Any) -> tuple[datetime | None, str]:
    if isinstance(value, str) and (found := ISO.match(value)):
        return _moment(found)
    if isinstance(value, int | float):
        seconds = value / 1000 if value > 1e11 else value
        try:
            moment = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
        except (OverflowError, OSError, ValueError):
            return None, ""
        return moment, f"{moment.isoformat(timespec='milliseconds')}Z"
    return None, ""


def _moment(found: re.Match[str]) -> tuple[datetime | None, str]:
    part = f".{found['part'][:6]:0<3}" if found["part"] else ""
    clock = found["clock"] if len(found["clock"]) == 8 else f"{found['clock']}:00"
    text = f"{found['date'].replace('/', '-')}T{clock}{part}"
    try:
        return datetime.fromisoformat(text), text + (found["zone"] or "")
    except ValueError:
        return None, ""
