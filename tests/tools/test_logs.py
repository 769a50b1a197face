import os
import time
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from contracts.errors import BadRequest, Unprocessable
from contracts.tools import LogMatches
from tests.support.tool_errors import error_of
from tools.logs import reading
from tools.logs import search as searching
from tools.logs.entries import Entry, read_entries
from tools.logs.search import Filter, parse_bound, search
from tools.logs.server import server

SAMPLES = Path(__file__).parents[2] / "data" / "samples" / "logs"
TODAY = date(2026, 11, 21)


def entries(*lines: str) -> list[Entry]:
    return list(read_entries(lines, TODAY))


def found(
    logs_dir: Path, limit: int = 20, file: str | None = None, **conditions: Any
) -> LogMatches:
    return search(logs_dir, Filter(**conditions), file, limit)


def texts(matches: LogMatches) -> list[str]:
    return [line.text for line in matches.lines]


@pytest.fixture
def logs_dir(tmp_path: Path) -> Path:
    (tmp_path / "a.log").write_text(
        "2026-11-20 10:00:00,123 INFO app: started\n"
        "2026-11-20 10:05:00,000 ERROR app: failed\n"
        "Traceback (most recent call last):\n"
        '  File "a.py", line 3, in f\n'
        "ValueError: odd value 17\n"
        "2026-11-20 10:06:00,000 WARNING app: recovered\n"
    )
    (tmp_path / "b.jsonl").write_text(
        '{"ts": "2026-11-20T10:03:00Z", "level": "warn", "msg": "slow query", "ms": 812}\n'
        '{"ts": "2026-11-21T10:03:00Z", "level": "fatal", "msg": "gone"}\n'
    )
    return tmp_path


@pytest.mark.parametrize(
    ("line", "time", "level", "text"),
    [
        (
            "2026-11-20 08:15:32,123 WARNING  boost.control: target not reached",
            "2026-11-20T08:15:32.123", "warning", "boost.control: target not reached",
        ),
        (
            "2026-11-20 08:15:32,123 - boost.control - ERROR - overboost",
            "2026-11-20T08:15:32.123", "error", "boost.control: overboost",
        ),
        (
            "2026-11-20T08:15:32.5Z [info] ready after 3 s",
            "2026-11-20T08:15:32.500Z", "info", "ready after 3 s",
        ),
        (
            "[2026-11-20 08:15:32+01:00] CRITICAL died",
            "2026-11-20T08:15:32+01:00", "critical", "died",
        ),
        (
            "2026-11-20T08:15:32Z level=warn msg=slow",
            "2026-11-20T08:15:32Z", "warning", "msg=slow",
        ),
        ("2026-11-20 08:15 no level here", "2026-11-20T08:15:00", "", "no level here"),
        (
            '{"time": "2026-11-20T08:15:32.100+01:00", "level": "ERROR", "msg": "bus off",'
            ' "component": "can", "errors": 128}',
            "2026-11-20T08:15:32.100+01:00", "error", "can: bus off errors=128",
        ),
        (
            '{"ts": 1795162532.25, "severity": "NOTICE", "message": "epoch"}',
            "2026-11-20T08:15:32.250Z", "info", "epoch",
        ),
        (
            "Nov 20 08:15:32 bench2 pcan[812]: error: bus off",
            "2026-11-20T08:15:32", "error", "pcan[812]: bus off",
        ),
        ("Dec 31 23:59:59 host a: last year", "2025-12-31T23:59:59", "", "a: last year"),
        ("<11>Nov 20 08:15:32 host a[1]: text", "2026-11-20T08:15:32", "error", "a[1]: text"),
        (
            "<34>1 2026-11-20T08:15:32.003Z host su 77 ID47 - failed for lonvick",
            "2026-11-20T08:15:32.003Z", "critical", "su: failed for lonvick",
        ),
        ("WARNING:root:disk nearly full", "", "warning", "root: disk nearly full"),
        (
            "2026/11/20 08:15:32 [error] 12#12: upstream gone",
            "2026-11-20T08:15:32", "error", "12#12: upstream gone",
        ),
        ("[ERROR] build failed", "", "error", "build failed"),
        ("error: cannot open x.c", "", "error", "cannot open x.c"),
        ("WARN  disk nearly full", "", "warning", "disk nearly full"),
        ("Error while opening, no level", "", "", "Error while opening, no level"),
        ("just a line", "", "", "just a line"),
        ("2026-13-45 08:15:32 INFO no such day", "", "", "2026-13-45 08:15:32 INFO no such day"),
        ("{not json", "", "", "{not json"),
        ("[1, 2]", "", "", "[1, 2]"),
    ],
)  # fmt: skip
def test_every_known_format_is_read(line: str, time: str, level: str, text: str) -> None:
    [entry] = entries(line)
    assert (entry.time, entry.level, entry.text) == (time, level, text)


def test_a_level_word_inside_the_message_is_no_level() -> None:
    [entry] = entries("2026-11-20 08:15:32 INFO app: the word ERROR is only mentioned")
    assert entry.level == "info"


def test_old_encodings_and_byte_order_marks_are_read(tmp_path: Path) -> None:
    (tmp_path / "old.log").write_bytes("2026-11-20 10:00:00 ERROR M\xfcller\r\n".encode("cp1252"))
    (tmp_path / "new.log").write_text("2026-11-20 10:00:01 INFO M\xfcller\n", "utf-8-sig")
    (tmp_path / "long.log").write_text("x" * (reading.MAX_LINE_BYTES - 1) + "\xfc\n", "utf-8")
    matches = found(tmp_path, query="m\xfcller")
    assert [(line.time[-2:], line.text) for line in matches.lines] == [
        ("00", "M\xfcller"),
        ("01", "M\xfcller"),
    ]
    assert found(tmp_path, file="long.log", query="\xc3").matched == 0


def test_a_stack_trace_belongs_to_its_entry(logs_dir: Path) -> None:
    matches = found(logs_dir, query="odd value")
    assert matches.matched == 1
    assert matches.lines[0].source == "a.log:2"
    assert matches.lines[0].text.startswith("app: failed\nTraceback")
    assert matches.lines[0].text.endswith("ValueError: odd value 17")


def test_lines_without_any_time_stand_alone() -> None:
    assert [entry.text for entry in entries("one", "two", "  more of two")] == ["one", "two"]


def test_an_entry_does_not_grow_without_end() -> None:
    lines = ["2026-11-20 08:15:32 INFO first", *(f"line {n}" for n in range(500))]
    assert len(entries(*lines)[0].more) == 200


def test_matches_of_all_files_come_oldest_first(logs_dir: Path) -> None:
    matches = found(logs_dir)
    assert [line.source for line in matches.lines] == [
        "a.log:1", "b.jsonl:1", "a.log:2", "a.log:6", "b.jsonl:2",
    ]  # fmt: skip
    assert matches.files == ["a.log", "b.jsonl"]


@pytest.mark.parametrize(
    ("level", "count"), [("debug", 5), ("info", 5), ("warning", 4), ("error", 2), ("critical", 1)]
)
def test_a_level_means_that_level_and_above(logs_dir: Path, level: str, count: int) -> None:
    assert found(logs_dir, level=level).matched == count


@pytest.mark.parametrize(
    ("since", "until", "count"),
    [
        ("2026-11-21", None, 1),
        (None, "2026-11-20", 4),
        ("2026-11-20T10:05", None, 3),
        ("2026-11-20 10:05:01", None, 2),
        (None, "2026-11-20T10:05", 3),
        ("10:03", "10:05", 3),
        ("10:03", "10:03", 2),
        ("2026-11-20T10:03:00Z", "2026-11-20T10:03:00Z", 1),
        ("23:00", None, 0),
    ],
)
def test_time_is_bounded_inclusively(
    logs_dir: Path, since: str | None, until: str | None, count: int
) -> None:
    assert found(logs_dir, since=since, until=until).matched == count


@pytest.mark.parametrize("text", ["yesterday", "25:00", "2026-02-30", "10", "2026-11-20T25:00"])
def test_what_is_no_time_is_named(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_bound("since", text)
    assert caught.value.message == f"since={text!r} is no time."


def test_all_words_have_to_occur_in_any_case_and_order(logs_dir: Path) -> None:
    assert found(logs_dir, query="QUERY slow").matched == 1
    assert found(logs_dir, query="slow failed").matched == 0


def test_a_regular_expression_is_searched(logs_dir: Path) -> None:
    assert texts(found(logs_dir, pattern=r"ms=8\d\d$")) == ["slow query ms=812"]
    assert found(logs_dir, pattern="^valueerror", query="odd").matched == 1


@pytest.mark.parametrize(
    "pattern", ["(", "[a", "x" * 501, "(?:a{1000}){1000}", "((a{99}){99}){99}"]
)
def test_a_bad_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(BadRequest) as caught:
        Filter(pattern=pattern)
    assert caught.value.code == "bad_regex"


@pytest.mark.timeout(20)
def test_a_pattern_that_never_ends_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "REGEX_BUDGET_S", 0.3)
    (tmp_path / "a.log").write_text(("x" * 30 + "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab\n") * 50)
    started = time.monotonic()
    with pytest.raises(Unprocessable) as caught:
        found(tmp_path, pattern=r"(a|aa|aaa)+(a+)+$")
    assert caught.value.code == "slow_regex"
    assert time.monotonic() - started < 10


def test_the_limit_holds_and_all_matches_are_counted(tmp_path: Path) -> None:
    lines = (f"2026-11-20 10:{n // 60:02}:{n % 60:02} INFO n={n}\n" for n in range(3000))
    (tmp_path / "a.log").write_text("".join(lines))
    matches = found(tmp_path, limit=3, query="n=")
    assert matches.matched == 3000
    assert texts(matches) == ["n=0", "n=1", "n=2"]


def test_long_entries_keep_their_beginning_and_end(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("2026-11-20 10:00 INFO begin " + "x" * 50_000 + " end\n")
    [text] = texts(found(tmp_path))
    assert text.startswith("begin")
    assert len(text) < 700
    assert "[...]" in text


def test_terminal_and_direction_codes_do_not_pass(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text(
        "2026-11-20 10:00 INFO \x1b[31mred\x1b[0m \x1b]0;title\x07\x1b[2J \u202eoverride\r\n"
    )
    assert texts(found(tmp_path)) == ["red  override"]


async def test_half_a_letter_in_a_json_log_stops_no_search(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"level": "error", "msg": "cut \\ud83d", "key\\ud800": 1}\n')
    async with Client(server(tmp_path)) as client:
        result = await client.call_tool("search_logs", {"query": "cut"})
    [line] = LogMatches.model_validate(result.structured_content).lines
    assert line.text == "cut  key=1"


def test_a_file_is_chosen_by_name_or_pattern(logs_dir: Path) -> None:
    assert found(logs_dir, file="A.log").files == ["a.log"]
    assert found(logs_dir, file="*.jsonl").files == ["b.jsonl"]


@pytest.mark.timeout(10)
def test_links_fifos_and_binary_files_are_not_searched(tmp_path: Path) -> None:
    logs_dir = tmp_path / "logs"
    logs_dir.mkdir()
    (tmp_path / "secret.log").write_text("secret\n")
    (logs_dir / "link.log").symlink_to(tmp_path / "secret.log")
    os.mkfifo(logs_dir / "fifo.log")
    (logs_dir / "core.log").write_bytes(b"\x7fELF\0\0secret\n")
    matches = found(logs_dir, query="secret")
    assert matches.matched == 0
    assert matches.files == ["core.log (not searched: it is not text)"]


def test_of_a_large_file_the_end_is_searched_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_BYTES", 1 << 20)
    lines = [f"2026-11-20 10:00 INFO n={n} {'x' * 80}\n" for n in range(20_000)]
    (tmp_path / "a.log").write_text("".join(lines))
    matches = found(tmp_path, query="n=19999")
    assert matches.lines[0].source == "a.log:20000"
    assert matches.files == ["a.log (only its last 1.0 MiB)"]
    assert found(tmp_path, query="n=1").matched < 20_000


def test_the_newest_files_are_searched_first_and_the_rest_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_BYTES", 200)
    for name, age in (("old.log", 2), ("new.log", 1)):
        (tmp_path / name).write_text("2026-11-20 10:00 INFO some text\n" * 6)
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    matches = found(tmp_path)
    assert {line.source.split(":")[0] for line in matches.lines} == {"new.log"}
    assert matches.files[0] == "new.log"
    assert matches.files[1].startswith("old.log (")


async def test_the_tool_is_described_as_a_reading_one() -> None:
    async with Client(server(SAMPLES)) as client:
        [tool] = (await client.list_tools()).tools
    assert tool.name == "search_logs"
    assert tool.description == "Search the log files by text, level and time."
    assert tool.annotations
    assert tool.annotations.read_only_hint
    assert tool.output_schema


async def test_the_samples_tell_one_story() -> None:
    async with Client(server(SAMPLES)) as client:
        result = await client.call_tool("search_logs", {"level": "error", "query": "overboost"})
    matches = LogMatches.model_validate(result.structured_content)
    assert {line.source.split(":")[0] for line in matches.lines} == {"dyno.log", "ecu.jsonl"}
    moments = [datetime.fromisoformat(line.time).replace(tzinfo=None) for line in matches.lines]
    assert moments == sorted(moments)


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        ({"since": "soon"}, "bad_time", "since='soon'"),
        ({"file": "none.log"}, "no_file", "none.log"),
        ({"level": "loud"}, "bad_arguments", "level"),
        ({"limit": 201}, "bad_arguments", "limit"),
        ({"regex": "("}, "bad_regex", "("),
    ],
)
async def test_wrong_arguments_are_answered_with_code_and_value(
    arguments: dict[str, Any], code: str, named: str
) -> None:
    async with Client(server(SAMPLES)) as client:
        result = await client.call_tool("search_logs", arguments)
    error = error_of(result)
    assert error["code"] == code
    assert named in error["message"]
