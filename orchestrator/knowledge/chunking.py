"""Text to passages of a size that the embedding model reads whole (256 tokens), with lines.

Prose is cut at its headings, code at its top level, then both at blank lines, then at lines.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from orchestrator.knowledge.parsing import Document, Kind

# Characters that make at most about 256 tokens of the model's tokenizer. Measured, a token is 4.3
# characters of code or plain prose, 3.4 of technical prose, 2.7 of logs, 1.4 to 3.7 of tables.
LIMITS: dict[Kind, int] = {"prose": 850, "code": 950, "table": 500, "lines": 680}

_HEADING = re.compile(r"(#{1,6})\s+(.+?)\s*#*\s*$")
_FENCE = re.compile(r"\s{0,3}(```|~~~)")


@dataclass(frozen=True)
class Passage:
    """Lines count from 1, inclusive. `text` may start with a line of context that is not there
    in the source: the headings above it, or a table's header."""

    start_line: int
    end_line: int
    text: str


@dataclass(frozen=True)
class _Line:
    """A line, or a part of one that is too long."""

    number: int
    text: str


_Boundary = Callable[[_Line, _Line], bool]


def _blank_before(previous: _Line, line: _Line) -> bool:
    return not previous.text.strip() and bool(line.text.strip())


def _top_level(previous: _Line, line: _Line) -> bool:
    return _blank_before(previous, line) and not line.text[0].isspace()


def _any_line(previous: _Line, line: _Line) -> bool:
    return True


_BOUNDARIES: dict[Kind, tuple[_Boundary, ...]] = {
    "prose": (_blank_before, _any_line),
    "code": (_top_level, _blank_before, _any_line),
    "table": (_any_line,),
    "lines": (_any_line,),
}


def chunk(document: Document) -> list[Passage]:
    """Cut a document into passages, in order, none of them blank."""
    limit = LIMITS[document.kind]
    boundaries = _BOUNDARIES[document.kind]
    passages = [
        passage
        for context, lines in _sections(document, limit)
        for group in _pack(_split(lines, limit, boundaries), limit)
        if (passage := _passage(context, group))
    ]
    return passages or _title_only(document.text)


def _sections(document: Document, limit: int) -> Iterator[tuple[str, list[_Line]]]:
    """Parts that are cut on their own, each with its line of context."""
    lines = _lines(document.text, limit)
    if document.kind == "prose":
        yield from _by_heading(lines)
    elif document.kind == "table" and lines:
        yield lines[0].text, lines[1:]
    else:
        yield "", lines


def _by_heading(lines: list[_Line]) -> Iterator[tuple[str, list[_Line]]]:
    path: list[tuple[int, str]] = []
    section: list[_Line] = []
    fenced = False
    for line in lines:
        fenced ^= bool(_FENCE.match(line.text))
        heading = None if fenced else _HEADING.match(line.text)
        if heading is None:
            section.append(line)
            continue
        yield _context(path), section
        level = len(heading[1])
        path = [step for step in path if step[0] < level] + [(level, heading[2])]
        section = []
    yield _context(path), section


def _title_only(text: str) -> list[Passage]:
    """A document of nothing but headings: those are its text."""
    passage = _passage("", _lines(text, LIMITS["prose"]))
    return [passage] if passage else []


def _context(path: list[tuple[int, str]]) -> str:
    return f"# {' > '.join(title for _, title in path)}" if path else ""


def _lines(text: str, limit: int) -> list[_Line]:
    return [
        _Line(number, part)
        for number, line in enumerate(text.split("\n"), start=1)
        for part in _parts(line.rstrip(), limit)
    ]


def _parts(line: str, limit: int) -> Iterator[str]:
    """A line, cut at spaces where it is longer than a passage may be."""
    while len(line) > limit:
        cut = line.rfind(" ", limit // 2, limit) + 1 or limit
        yield line[:cut]
        line = line[cut:]
    yield line


def _split(
    lines: list[_Line], limit: int, boundaries: tuple[_Boundary, ...]
) -> Iterator[list[_Line]]:
    """Cut lines at the first kind of boundary, and what is still too large at the next."""
    if _size(lines) <= limit or not boundaries:
        if lines:
            yield lines
        return
    start = 0
    for index in range(1, len(lines)):
        if boundaries[0](lines[index - 1], lines[index]):
            yield from _split(lines[start:index], limit, boundaries[1:])
            start = index
    yield from _split(lines[start:], limit, boundaries[1:])


def _pack(groups: Iterable[list[_Line]], limit: int) -> Iterator[list[_Line]]:
    """Join neighbours while they fit."""
    packed: list[_Line] = []
    for group in groups:
        if packed and _size(packed) + _size(group) > limit:
            yield packed
            packed = []
        packed = packed + group
    if packed:
        yield packed


def _size(lines: list[_Line]) -> int:
    return sum(len(line.text) + 1 for line in lines)


def _passage(context: str, lines: list[_Line]) -> Passage | None:
    written = [line for line in lines if line.text.strip()]
    if not written:
        return None
    first, last = lines.index(written[0]), len(lines) - lines[::-1].index(written[-1])
    body = "\n".join(line.text for line in lines[first:last])
    text = f"{context}\n{body}" if context else body
    return Passage(written[0].number, written[-1].number, text)
