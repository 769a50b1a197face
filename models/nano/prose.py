"""Text of logs and documents, as the tools return it."""

import textwrap
from random import Random

from models.nano import english
from models.nano import words as w

WRAP = 100
ENDS = ["kpa", "rpm", "v", "deg", "ms", "id", "count", "block"]


def log_text(r: Random) -> str:
    """The message of a log line: names, measured values, key=value pairs."""
    kinds = [_measured, _pairs, _sensor, _service, _checksum, _plain_event]
    return r.choice(kinds)(r)


def _value(r: Random) -> str:
    return f"{w.plain(w.number(r, r.randint(0, 2), 0, r.choice([5, 90, 400])))} {r.choice(w.UNITS)}"


def _name(r: Random) -> str:
    return r.choice([r.choice(w.PARTS), r.choice(w.LOGGERS), w.word(r), r.choice(english.NOUNS)])


def _few(r: Random) -> str:
    return r.choice(
        [r.choice(w.TROUBLES), english.phrase(r), f"{_name(r)} {r.choice(english.VERBS)}ed"]
    )


def _measured(r: Random) -> str:
    head = f"{_name(r)}.{_name(r)}" if r.random() < 0.6 else _name(r)
    parts = [f"{_few(r)}: {_value(r)} at {r.randint(80, 680) * 10} rpm"]
    if r.random() < 0.4:
        parts.append(f"{r.randint(0, 100)} % {r.choice(w.PARTS)}: measured {_value(r)}")
    parts += [f"{r.choice(['limit', 'error', 'threshold', 'target', _name(r)])} {_value(r)}"]
    parts += [_few(r) for _ in range(r.randint(0, 2))]
    return f"{head}: {', '.join(parts)}"


def _pairs(r: Random) -> str:
    pairs = []
    for _ in range(r.randint(1, 4)):
        key = "_".join([_name(r), r.choice(ENDS)])
        value = r.choice(
            [
                w.plain(w.number(r, r.randint(0, 2), 0, 6000)),
                str(r.randint(0, 9)),
                f"P{r.randint(0, 3999):04}",
                w.identifier(r),
            ]
        )
        pairs.append(f"{key if r.random() < 0.7 else _name(r)}={value}")
    return f"{_name(r)}: {_few(r)}{', ' + _few(r) if r.random() < 0.4 else ''} {' '.join(pairs)}"


def _sensor(r: Random) -> str:
    return (
        f"{_name(r)}.{_name(r)}: {r.choice(w.PARTS)} {r.choice(['sensor', 'bank', 'cylinder'])}"
        f" {r.randint(1, 8)}: level {_value(r)} at {r.randint(80, 680) * 10} rpm,"
        f" {r.choice(['threshold', 'limit', 'normal'])} {_value(r)}"
    )


def _service(r: Random) -> str:
    number, verb = (
        f"{r.getrandbits(16):04x}",
        r.choice(["started", "stopped", "restarted", "ready"]),
    )
    return r.choice(
        [
            f"upstream timeout: engine {_name(r)}, no token for {r.randint(1, 90)}.0 s,"
            f" request {number} retried",
            f"engine {_name(r)}: process died, signal {r.randint(1, 15)},"
            f" {r.randint(1, 9)} streams cut",
            f"request {number} {_few(r)} after {r.randint(1, 9000)} ms",
            f"{_name(r)}[{r.randint(100, 9999)}]: {_few(r)} ({english.phrase(r)})",
            f"{_name(r)} {verb} in {r.randint(1, 900)} ms",
        ]
    )


def _checksum(r: Random) -> str:
    one, two = (f"0x{r.getrandbits(32):08X}" for _ in range(2))
    return f"{_name(r)}: checksum mismatch block={w.identifier(r)} expected={one} found={two}"


def _plain_event(r: Random) -> str:
    return english.statement(r) if r.random() < 0.5 else f"{_name(r)}: {english.phrase(r)}"


def sentence(r: Random) -> str:
    """A sentence of a document; the only full stop is its last."""
    kinds = [_stated, _limited, _listed, _sourced, _dependent, _numbered]
    text = r.choice(kinds)(r)
    return f"{text[0].upper()}{text[1:]}."


def _stated(r: Random) -> str:
    stated = english.statement(r)
    return stated if r.random() < 0.5 else f"{stated}: {english.phrase(r)}"


def _limited(r: Random) -> str:
    verb = r.choice(["set", "limited", "lowered", "raised", "kept"])
    when = r.choice(["reaches", "exceeds", "falls below"])
    return f"The {w.topic(r)} is {verb} to {_value(r)} when the {w.topic(r)} {when} {_value(r)}"


def _listed(r: Random) -> str:
    return f"{english.statement(r)}, {english.phrase(r)} and {english.phrase(r)}"


def _sourced(r: Random) -> str:
    verb, axes = r.choice(["comes", "follows", "is read"]), [r.choice(w.PARTS) for _ in range(3)]
    unit = r.choice(english.NOUNS)
    return (
        f"{w.topic(r)} {verb} from `{w.identifier(r)}`, in {unit}s"
        f" by {axes[0]} {axes[1]} and {axes[2]}"
    )


def _dependent(r: Random) -> str:
    first = r.choice(["Each", "Every", "The", "No", "One"])
    verb = r.choice(["is set by", "depends on", "waits for", "needs", "keeps"])
    rest = f"{r.randint(2, 90)} {w.word(r)}"
    return f"{first} {w.word(r)} {verb} {w.identifier(r)} and {rest}"


def _numbered(r: Random) -> str:
    noun, verb = r.choice(english.NOUNS), r.choice(english.VERBS)
    return (
        f"{r.randint(2, 9)} {noun}s {verb} the {w.topic(r)}: {noun} {r.randint(1, 9)}"
        f" {r.choice(english.VERBS)}s {r.choice(english.NOUNS)}s {r.randint(1, 4)} and"
        f" {r.randint(5, 9)}"
    )


def passage(r: Random, first: str | None = None) -> str:
    """Prose of a document, its lines broken as an author breaks them."""
    sentences = [first or sentence(r), *(sentence(r) for _ in range(r.randint(0, 4)))]
    if r.random() < 0.2:
        return "\n".join(f"{n}. {text}" for n, text in enumerate(sentences, 1))
    whole = " ".join(sentences)
    return "\n".join(textwrap.wrap(whole, WRAP)) if r.random() < 0.75 else whole
