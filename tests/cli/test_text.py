import pytest

from cli.text import compact, duration, exact, number, prose, size


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 漢 🙂", "plain ü 漢 🙂"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\rb\nc\td", "a\\rb\\nc\\td"),
        ("evil\u202etxt.exe", "evil\\u202etxt.exe"),
        ("zero\u200bwidth\u200d", "zero\\u200bwidth\\u200d"),
        ("\u2028\u00ad\x9b", "\\u2028\\xad\\x9b"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_cannot_be_seen_is_written_out(text: str, shown: str) -> None:
    assert exact(text) == shown


def test_prose_keeps_lines_tabs_and_joined_emoji_but_no_terminal_control() -> None:
    text = "one\n\ttwo 👩\u200d💻"
    assert prose(text) == text
    assert prose("\x1b]0;title\x07\u202e\r") == "\\x1b]0;title\\x07\\u202e\\r"


def test_compact_json_is_cut_and_says_by_how_much() -> None:
    assert compact({"a": 1.0, "b": None, "c": [0.5]}) == '{"a": 1, "c": [0.5]}'
    assert compact("x" * 20, 10) == '"xxxxxxxxx… (+12 characters)'


def test_numbers_durations_and_sizes_read_well() -> None:
    assert [number(v) for v in (131.0, 0.1 + 0.2, -7)] == ["131", "0.3", "-7"]
    assert [duration(v) for v in (0.25, 12.4, 1500)] == ["0.2 ms", "12 ms", "1.5 s"]
    assert [size(v) for v in (12, 12_000_000, 3.2e9)] == ["12 B", "12 MB", "3.2 GB"]
