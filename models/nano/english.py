"""Everyday English: words for sentences that are about nothing in particular."""

from random import Random

from models.nano.phrases import phrases, pick

NOUNS = phrases("nouns")
VERBS = phrases("verbs")
ADJECTIVES = phrases("adjectives")
FRAMES = phrases("everyday_questions")
PLAIN = phrases("everyday_statements")


def _filled(r: Random, frame: str) -> str:
    text = pick(r, frame)
    for blank, words in (("{n}", NOUNS), ("{v}", VERBS), ("{a}", ADJECTIVES)):
        while blank in text:
            text = text.replace(blank, r.choice(words), 1)
    return " ".join(text.replace("{d}", str(r.randint(2, 90))).split())


def question(r: Random) -> str:
    """A question, wish or remark about everyday things; grammar is not always right."""
    return _filled(r, r.choice(FRAMES))


def statement(r: Random) -> str:
    """A sentence as documents hold it, without its full stop."""
    return _filled(r, r.choice(PLAIN))


def phrase(r: Random) -> str:
    """A few words, as log lines hold them."""
    kinds = [NOUNS, VERBS, ADJECTIVES, NOUNS]
    return " ".join(r.choice(r.choice(kinds)) for _ in range(r.randint(2, 6)))
