"""What dialogues talk about: random but plausible names, numbers and times."""

import random
from random import Random

from models.nano.english import ADJECTIVES, NOUNS
from models.nano.phrases import phrases

PARTS = phrases("parts")
TOPICS = phrases("topics")
TROUBLES = phrases("troubles")
UNITS = phrases("units")
AXES = [
    ("rpm", "rpm"),
    ("engine speed", "rpm"),
    ("load", "%"),
    ("throttle", "%"),
    ("pedal", "%"),
    ("map", "kPa"),
    ("coolant", "°C"),
    ("temperature", "degC"),
    ("voltage", "V"),
    ("torque", "Nm"),
    ("time", "s"),
    ("gear", ""),
    ("day", "d"),
    ("pressure", "bar"),
    ("speed", "km/h"),
    ("hour", "h"),
    ("coolant temperature", "degC"),
    ("manifold pressure", "kPa"),
    ("battery voltage", "V"),
    ("time", "s"),
]
FOLDERS = phrases("folders")
STEMS = phrases("stems")
ENDINGS = ["md", "txt", "py", "json", "yaml", "csv", "log", "toml", "cfg", "ini", "sh", "ts"]
LOGGERS = phrases("loggers")
_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwz", "aeiou"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def word(r: Random) -> str:
    """A word that no text has seen: pronounceable, or just letters."""
    if r.random() < 0.7:
        syllables = [r.choice(_CONSONANTS) + r.choice(_VOWELS) for _ in range(r.randint(1, 3))]
        return "".join(syllables) + (r.choice(_CONSONANTS) if r.random() < 0.6 else "")
    return "".join(r.choice(_LETTERS) for _ in range(r.randint(2, 8)))


def _part(r: Random) -> str:
    draw = r.random()
    if draw < 0.62:
        return r.choice(PARTS)
    return r.choice(NOUNS if draw < 0.72 else ADJECTIVES) if draw < 0.78 else word(r)


def identifier(r: Random, parts: int | None = None) -> str:
    """A snake_case name of one to four parts."""
    count = parts or r.choices([1, 2, 3, 4], [2, 9, 6, 1])[0]
    words = [_part(r) for _ in range(count)]
    if r.random() < 0.12:
        words.append(
            r.choice([str(r.randint(1, 99)), f"v{r.randint(1, 9)}", f"b{r.randint(1, 4)}"])
        )
    return "_".join(words)


def topic(r: Random) -> str:
    """What a document or a log line may be about: one to three words."""
    draw = r.random()
    if draw < 0.5:
        return r.choice(TOPICS)
    if draw < 0.65:
        return identifier(r)
    return " ".join(
        r.choice(PARTS) if r.random() < 0.6 else word(r) for _ in range(r.randint(1, 3))
    )


def trouble(r: Random) -> str:
    draw = r.random()
    if draw < 0.5:
        return r.choice(TROUBLES)
    return topic(r) if draw < 0.9 else f"{r.choice(PARTS)} {r.choice(TROUBLES)}"


def stem(r: Random) -> str:
    draw = r.random()
    if draw < 0.55:
        return r.choice(STEMS)
    if draw < 0.8:
        return identifier(r)
    return r.choice(["-", "_", "."]).join([word(r), word(r)]) if draw < 0.9 else word(r)


def folder(r: Random) -> str:
    name = r.choice(FOLDERS) if r.random() < 0.7 else stem(r)
    return f"{name}/{word(r)}" if r.random() < 0.2 else name


def file_path(r: Random, ending: str | None = None) -> str:
    name = f"{stem(r)}.{ending or r.choice(ENDINGS)}"
    if r.random() < 0.1:
        name = r.choice(["README.md", "Makefile", "LICENSE", "pyproject.toml", "CHANGELOG.md"])
    return name if r.random() < 0.35 else f"{folder(r)}/{name}"


def number(r: Random, decimals: int, low: float, high: float) -> float:
    """At most six digits: llama.cpp's templates write no more."""
    return float(f"{round(r.uniform(low, high), decimals):.6g}")


def decimals(r: Random) -> int:
    return r.choices([0, 1, 2, 3], [5, 4, 3, 1])[0]


def plain(value: float) -> str:
    """A number as results show it: whole numbers without a fraction."""
    return str(int(value)) if float(value).is_integer() else str(value)


def date(r: Random) -> str:
    return f"{r.randint(2024, 2027)}-{r.randint(1, 12):02}-{r.randint(1, 28):02}"


def clock(r: Random) -> str:
    return f"{r.randint(0, 23):02}:{r.randint(0, 59):02}:{r.randint(0, 59):02}"


def moment(r: Random) -> str:
    """A time as log readers print it."""
    tail = r.choice(["", "", "Z", "+00:00", f".{r.randint(0, 999):03}"])
    return f"{date(r)}{r.choice(['T', 'T', ' '])}{clock(r)}{tail}"


def seeded(seed: int) -> Random:
    return random.Random(seed)
