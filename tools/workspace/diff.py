"""Unified diffs: what a patch says, and a file's text after it.

Read strictly, because the author may be a model or someone who misleads one: counts must agree,
context must match exactly, and whatever is more than changed text (renames, copies, modes, links,
binary data) is refused. Context that stands elsewhere in the file is found if it is there once.
"""

import re
from dataclasses import dataclass, field

from contracts.errors import Forbidden, Unprocessable

MAX_PATCH_BYTES = 1024 * 1024
HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
GIT = re.compile(r"diff --git (?P<old>\S.*) (?P<new>\S.*)$")
# A line that would belong to a hunk, unlike the next file's header or a mail signature.
FURTHER_LINE = re.compile(r"[ +]|-(?!-- |- ?$)")
NOTHING = "/dev/null"
PLAIN_MODES = ("100644", "100755")
REFUSED = (
    ("rename ", "a rename"),
    ("copy ", "a copy"),
    ("similarity index", "a rename or copy"),
    ("dissimilarity index", "a rewrite"),
    ("old mode", "a change of mode"),
    ("new mode", "a change of mode"),
    ("GIT binary patch", "binary data"),
    ("Binary files", "binary data"),
)


@dataclass(slots=True)
class Hunk:
    """Lines to find and lines to put in their place; `start` is the first old line, from 1.

    `lines` are (sign, text) with sign one of ' ', '-', '+'. `ends_old` and `ends_new` say that the
    side ends without a line break.
    """

    start: int
    lines: list[tuple[str, str]] = field(default_factory=list)
    ends_old: bool = False
    ends_new: bool = False

    @property
    def old(self) -> list[str]:
        return [text for sign, text in self.lines if sign != "+"]

    @property
    def new(self) -> list[str]:
        return [text for sign, text in self.lines if sign != "-"]


@dataclass(slots=True)
class FilePatch:
    """The changes of one file. `creates`: it must not be there yet; `deletes`: it goes."""

    path: str
    creates: bool
    deletes: bool
    hunks: list[Hunk]


def parse_patch(text: str) -> list[FilePatch]:
    """Read a unified diff, with or without git's extra lines. Raises Unprocessable or Forbidden."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_PATCH_BYTES:
        raise bad_patch(f"it is longer than {MAX_PATCH_BYTES} bytes")
    return _Reader(text).read()


def apply_hunks(patch: FilePatch, text: str) -> str:
    """The text after the hunks. Line ends of the file stay as they are, new lines take the first
    line's. Raises Unprocessable naming file, hunk and line when the text is another one."""
    lines = re.findall(r"[^\n]*\n|[^\n]+$", text)
    end = _end(lines[0]) if lines and _end(lines[0]) else "\n"
    result: list[str] = []
    position = 0
    for number, hunk in enumerate(patch.hunks, 1):
        place = _find(hunk, lines, position, f"{patch.path}, hunk {number}")
        result += lines[position:place]
        result += _replaced(hunk, lines[place : place + len(hunk.old)], end)
        position = place + len(hunk.old)
    return "".join(result + lines[position:])


class _Reader:
    def __init__(self, text: str) -> None:
        lines = text.split("\n")
        if lines and lines[-1] == "":
            lines.pop()
        # A patch that was mailed with CRLF has it on its own header lines too.
        if any(line.endswith("\r") for line in lines if line.startswith(("--- ", "@@ "))):
            lines = [line.removesuffix("\r") for line in lines]
        self.lines = lines
        self.at = 0

    def read(self) -> list[FilePatch]:
        patches: list[FilePatch] = []
        names: tuple[str, str] | None = None
        while self.at < len(self.lines):
            line = self.lines[self.at]
            if line.startswith("--- "):
                patches.append(self._file(names))
                names = None
                continue
            self._check_header(line)
            if found := GIT.match(line):
                if names is not None:
                    raise bad_patch(f"{names[1]} has no changed lines")
                names = found["old"], found["new"]
            elif line.startswith(("@@ ", "+++ ")):
                raise bad_patch(f"line {self.at + 1}: {line[:60]!r} without a '---' line before it")
            self.at += 1
        if names is not None:
            raise bad_patch(f"{names[1]} has no changed lines")
        if not patches:
            raise bad_patch("there is no '---' and '+++' line in it")
        paths = [patch.path for patch in patches]
        for path in paths:
            if paths.count(path) > 1:
                raise bad_patch(f"{path} is patched twice")
        return patches

    def _check_header(self, line: str) -> None:
        for start, what in REFUSED:
            if line.startswith(start):
                raise Forbidden(
                    "refused_patch",
                    f"The patch holds {what} (line {self.at + 1}: {line[:80]!r}).",
                    "Send only changed text; move files with file_operations.",
                )
        if line.startswith(("new file mode", "deleted file mode")):
            mode = line.rsplit(" ", 1)[1]
            if mode not in PLAIN_MODES:
                raise Forbidden(
                    "refused_patch",
                    f"The patch makes something other than a file (line {self.at + 1}: mode {mode}"
                    f"{', a symbolic link' if mode == '120000' else ''}).",
                    "Send only changed text of regular files.",
                )

    def _file(self, names: tuple[str, str] | None) -> FilePatch:
        old = _name(self.lines[self.at][4:])
        self.at += 1
        if self.at == len(self.lines) or not self.lines[self.at].startswith("+++ "):
            raise bad_patch(f"line {self.at + 1}: a '+++' line has to follow '--- {old}'")
        new = _name(self.lines[self.at][4:])
        self.at += 1
        path = _one_path(old, new)
        if names is not None and path != _one_path(*names):
            raise bad_patch(f"'diff --git' names {names[1]}, '+++' names {new}")
        hunks = []
        while self.at < len(self.lines) and self.lines[self.at].startswith("@@ "):
            hunks.append(self._hunk(path))
        if not hunks:
            raise bad_patch(f"{path} has no hunk; an '@@' line has to follow '+++'")
        return FilePatch(path, creates=old == NOTHING, deletes=new == NOTHING, hunks=hunks)

    def _hunk(self, path: str) -> Hunk:
        found = HUNK.match(self.lines[self.at])
        if found is None:
            raise bad_patch(f"{path}, line {self.at + 1}: {self.lines[self.at][:60]!r} is no hunk")
        head = self.lines[self.at]
        self.at += 1
        old, new = int(found[2] or 1), int(found[4] or 1)
        hunk = Hunk(start=int(found[1]))
        while (old or new) and self.at < len(self.lines):
            line = self.lines[self.at]
            sign, text = (line[0], line[1:]) if line else (" ", "")
            if sign not in " +-" or (sign != "+" and not old) or (sign != "-" and not new):
                break
            old -= sign != "+"
            new -= sign != "-"
            hunk.lines.append((sign, text))
            self.at += 1
            self._end_mark(hunk, sign)
        following = self.lines[self.at] if self.at < len(self.lines) else ""
        if old or new or FURTHER_LINE.match(following):
            raise bad_patch(
                f"{path}: the numbers in {head!r} do not agree with its lines"
                f" ({len(hunk.old)} old and {len(hunk.new)} new read)"
            )
        return hunk

    def _end_mark(self, hunk: Hunk, sign: str) -> None:
        if self.at < len(self.lines) and self.lines[self.at].startswith("\\"):
            hunk.ends_old |= sign != "+"
            hunk.ends_new |= sign != "-"
            self.at += 1


def bad_patch(why: str) -> Unprocessable:
    return Unprocessable("bad_patch", f"The patch cannot be read: {why}.", "Send a correct diff.")


def _name(text: str) -> str:
    name = text.split("\t")[0].rstrip(" ")
    if name.startswith('"'):
        raise bad_patch(f"the quoted file name {name[:80]} is not supported")
    return name


def _one_path(old: str, new: str) -> str:
    """The one file that both names mean, without the prefixes a/ and b/."""
    if old == NOTHING and new == NOTHING:
        raise bad_patch("both sides are /dev/null")
    prefixed = (old == NOTHING or old.startswith("a/")) and (new == NOTHING or new.startswith("b/"))
    if prefixed:
        old, new = old.removeprefix("a/"), new.removeprefix("b/")
    if NOTHING not in (old, new) and old != new:
        raise Forbidden(
            "refused_patch",
            f"The patch changes the name {old} to {new}.",
            "Move files with file_operations, then patch.",
        )
    return old if new == NOTHING else new


def _end(line: str) -> str:
    if line.endswith("\r\n"):
        return "\r\n"
    return "\n" if line.endswith("\n") else ""


def _find(hunk: Hunk, lines: list[str], after: int, where: str) -> int:
    """The index where the hunk's old lines stand: as stated, else the only place after `after`."""
    old = hunk.old
    if not old:
        place = min(hunk.start, len(lines))
        if place < after:
            raise _mismatch(where, "it overlaps the hunk before it")
        return place
    texts = [line.removesuffix("\n").removesuffix("\r") for line in lines]
    wanted = [text.removesuffix("\r") for text in old]
    stated = hunk.start - 1
    size = len(wanted)

    def fits(place: int) -> bool:
        return texts[place : place + size] == wanted and (
            not hunk.ends_old or (place + size == len(lines) and not _end(lines[-1]))
        )

    if stated >= after and fits(stated):
        return stated
    places = [place for place in range(after, len(lines) - size + 1) if fits(place)]
    if len(places) == 1:
        return places[0]
    if places:
        raise _mismatch(where, f"its context stands there {len(places)} times, not at its line")
    raise _mismatch(where, _difference(texts, wanted, stated))


def _difference(texts: list[str], wanted: list[str], stated: int) -> str:
    for offset, text in enumerate(wanted):
        line = stated + offset
        if line >= len(texts) or line < 0:
            return f"line {line + 1} is past the end of the file ({len(texts)} lines)"
        if texts[line] != text:
            return f"line {line + 1} is {texts[line][:80]!r}, the patch expects {text[:80]!r}"
    return "the file goes on where the patch says that it ends"


def _replaced(hunk: Hunk, found: list[str], end: str) -> list[str]:
    """The new lines: kept ones byte for byte as found, added ones with the file's line end."""
    result = []
    kept = iter(found)
    for sign, text in hunk.lines:
        if sign == "+":
            result.append(text.removesuffix("\r") + end if end == "\r\n" else text + end)
            continue
        line = next(kept)
        if sign == " ":
            result.append(line)
    for index, line in enumerate(result[:-1]):
        if not _end(line):
            result[index] = line + end
    if hunk.ends_new and result:
        result[-1] = result[-1].removesuffix("\n").removesuffix("\r")
    return result


def _mismatch(where: str, why: str) -> Unprocessable:
    return Unprocessable(
        "context_mismatch", f"{where}: {why}.", "Read the file and make the diff from its text."
    )
