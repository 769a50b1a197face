"""Sentence patterns: files in patterns/, one pattern a line, `[a|b|c]` is a choice."""

from pathlib import Path
from random import Random

FOLDER = Path(__file__).parent / "patterns"


def phrases(name: str) -> list[str]:
    """The patterns of one file."""
    return (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def pick(r: Random, text: str) -> str:
    """Resolve `[a|b|c]` groups, innermost first, by chance."""
    while (end := text.find("]")) >= 0:
        start = text.rfind("[", 0, end)
        text = text[:start] + r.choice(text[start + 1 : end].split("|")) + text[end + 1 :]
    return text
