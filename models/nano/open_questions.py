"""Open questions: everything that no tool of Variet can answer."""

from random import Random

from models.nano import english
from models.nano import words as w
from models.nano.phrases import phrases, pick

THINGS = phrases("things")
PLACES = phrases("places")
LANGUAGES = [
    "French",
    "German",
    "Spanish",
    "Italian",
    "Japanese",
    "Latin",
    "Dutch",
    "Polish",
    "Swedish",
    "Russian",
    "Chinese",
]
CODES = phrases("codes")
TASKS = phrases("tasks")
PEOPLE = phrases("people")
SAYINGS = [
    "good morning",
    "I love you",
    "where is the station",
    "see you tomorrow",
    "thank you very much",
    "the cat is asleep",
    "I am hungry",
    "how much does this cost",
    "happy birthday",
    "nice to meet you",
    "I am lost",
]

TEMPLATES = phrases("open_questions")


def question(r: Random) -> str:
    """One open question, with its blanks filled."""
    if r.random() < 0.35:
        return english.question(r)
    text = r.choice(TEMPLATES)
    for _ in range(3):
        text = pick(r, text)
        text = _fill(r, text)
    return text.strip()


def _thing(r: Random) -> str:
    return r.choice(THINGS) if r.random() < 0.7 else f"{r.choice(['', 'a ', 'the '])}{w.word(r)}"


def _fill(r: Random, text: str) -> str:
    blanks = {
        "{t}": lambda: _thing(r),
        "{t2}": lambda: _thing(r),
        "{p}": lambda: r.choice(PLACES) if r.random() < 0.8 else w.word(r).capitalize(),
        "{l}": lambda: r.choice(LANGUAGES),
        "{c}": lambda: r.choice(CODES),
        "{task}": lambda: r.choice(TASKS),
        "{who}": lambda: r.choice(PEOPLE),
        "{s}": lambda: r.choice(SAYINGS),
        "{w}": lambda: w.word(r) if r.random() < 0.8 else w.word(r).capitalize(),
        "{w2}": lambda: w.word(r),
        "{n}": lambda: str(r.randint(2, 999)),
        "{m}": lambda: str(r.randint(2, 99)),
        "{k}": lambda: str(r.randint(2, 99)),
        "{d}": lambda: str(r.randint(2, 12)),
        "{a}": lambda: r.choice(english.ADJECTIVES),
        "{y}": lambda: str(r.randint(1200, 2026)),
        "{snippet}": lambda: r.choice(
            [
                f"{w.word(r)} = {r.randint(0, 9)}",
                f"for i in {w.word(r)}: print(i)",
                f"return {w.word(r)}({w.word(r)})",
            ]
        ),
    }
    for blank, fill in blanks.items():
        while blank in text:
            text = text.replace(blank, fill(), 1)
    return text
