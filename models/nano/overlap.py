"""How much handwritten prompts share with what the generator makes, mechanically."""

import re
from random import Random
from typing import Any

from models.nano.dialogues import INSTRUCTION, dialogue

WORDS = 6
DRAWN = 20_000


def normal(text: str) -> tuple[str, ...]:
    """Words only, in lower case."""
    return tuple(re.findall(r"[a-z0-9_]+", text.lower()))


def overlap(prompts: list[str], drawn: int = DRAWN) -> dict[str, Any]:
    """Prompts that the generator made word for word, and those of which it made `WORDS` words in
    a row, among the user messages of `drawn` conversations."""
    whole: set[tuple[str, ...]] = set()
    runs: set[tuple[str, ...]] = set()
    for number in range(drawn):
        for turn in dialogue(Random(f"overlap/{number}")).turns:
            if turn.role == "user" and turn.text != INSTRUCTION:
                said = normal(turn.text)
                whole.add(said)
                runs.update(said[i : i + WORDS] for i in range(len(said) - WORDS + 1))
    asked = [normal(prompt) for prompt in prompts]
    equal = [said for said in asked if said in whole]
    long = [said for said in asked if len(said) >= WORDS]
    shared = [
        said
        for said in long
        if any(said[i : i + WORDS] in runs for i in range(len(said) - WORDS + 1))
    ]
    return {
        "conversations": drawn,
        "prompts": len(asked),
        "equal": len(equal),
        "long_prompts": len(long),
        f"sharing_{WORDS}_words": len(shared),
    }
