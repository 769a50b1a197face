"""How people really type: courtesy, context, lower case, missing marks, slips of the finger."""

import re
from random import Random

from models.nano import words as w
from models.nano.phrases import phrases, pick

BEFORE = phrases("before")
AFTER = phrases("after")
CONTEXT = phrases("context")
SPELLINGS = [
    ("summarize", "summarise"),
    ("analyze", "analyse"),
    ("color", "colour"),
    ("favorite", "favourite"),
    ("center", "centre"),
    ("behavior", "behaviour"),
    ("anomalies", "anomolies"),
    ("anomalies", "anomalys"),
]
_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"[a-z]+")


def spoken(r: Random, text: str, kept: str = "", context: float = 0.12) -> str:
    """`text` as someone might type it. Words of `kept` have to be copied: they stay as they are."""
    if "\n" in text:
        return text
    text = _SPACE.sub(" ", text).strip()
    held = frozenset(_WORD.findall(kept.lower()))
    if r.random() < 0.3:
        start = r.choice(BEFORE)
        text = f"{start} {text[0].lower()}{text[1:]}" if text[:2].istitle() else f"{start} {text}"
    if r.random() < 0.14 and not text.endswith((".", "!")):
        end = r.choice(AFTER)
        text = f"{text.rstrip('?')}{r.choice([', ', ' '])}{end}"
    if r.random() < 0.15:
        text = _misspelt(r, text, held)
    text = _marked(r, text, held)
    if r.random() < context:
        sentence = pick(r, r.choice(CONTEXT)).replace("{w}", w.word(r).capitalize())
        if r.random() < 0.65:
            return f"{sentence} {text}"
        # Without a mark nothing would say where a name or a query ends.
        return f"{text}{'' if text[-1] in '?.!' else '.'} {sentence}"
    return text


def _marked(r: Random, text: str, held: frozenset[str]) -> str:
    first = text.split()[0]
    if r.random() < 0.45 and first.isalpha() and first.lower() not in held:
        text = text[0].upper() + text[1:]
    if text[-1] in "?.!":
        return text if r.random() < 0.6 else text.rstrip("?.!")
    return text + r.choices(["", ".", "?", "!", "..."], [10, 3, 3, 0.5, 0.2])[0]


COMMON = frozenset(phrases("common"))


def _misspelt(r: Random, text: str, held: frozenset[str]) -> str:
    """One or two slips in common words outside quotations."""
    head = re.split(r"[\"'`]", text)[0]
    words = head.split(" ")
    places = [
        i
        for i, word in enumerate(words)
        if len(word) > 2 and (bare := word.lower().strip("?,.!:")) in COMMON and bare not in held
    ]
    most = 1 if len(words) < 7 else r.randint(1, 2)
    for i in r.sample(places, min(len(places), most)):
        words[i] = _slip(r, words[i])
    return " ".join(words) + text[len(head) :]


def _slip(r: Random, word: str) -> str:
    for right, wrong in SPELLINGS:
        if word == right and r.random() < 0.6:
            return wrong
    i = r.randrange(len(word) - 1)
    kind = r.randrange(4)
    if kind == 0:
        return word[:i] + word[i + 1 :]
    if kind == 1:
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    if kind == 2:
        return word[:i] + word[i] + word[i:]
    return word[:i] + r.choice("abcdefghijklmnopqrstuvwxyz") + word[i + 1 :]
