"""Conversations as token ids with the weight that each token has in the loss."""

from collections.abc import Iterator
from random import Random

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from models.nano.dialogues import Dialogue, brief_dialogue, copy_task, dialogue
from models.nano.template import system_block

LONGEST = 1800
POOL = 384
STEP = 32
OTHERS = 0.1
"""The share of tokens that the model does not write but learns to foresee all the same."""

Coded = tuple[list[int], list[bool]]
Batch = tuple[Tensor, Tensor]


class Coder:
    """Turns conversations into ids and marks of what is to be learnt."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def code(self, made: Dialogue) -> Coded:
        ids = list(self._kept(system_block(made.system, made.tools)))
        marks = [False] * len(ids)
        for turn in made.turns:
            head = self._kept(f"<|im_start|>{turn.role}\n")
            body = self._ids(f"{turn.text}<|im_end|>")
            tail = self._kept("\n")
            ids += head + body + tail
            marks += [False] * len(head) + [turn.learn] * len(body) + [False] * len(tail)
        return ids, marks

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text).ids

    def _kept(self, text: str) -> list[int]:
        if text not in self._known:
            if len(self._known) > 4096:
                self._known.clear()
            self._known[text] = self._ids(text)
        return self._known[text]


def draw(r: Random, progress: float) -> Dialogue:
    """A conversation for this point of training: copying first, then short ones, then all."""
    if progress < 0.06:
        return copy_task(r) if r.random() < 0.5 else dialogue(r, short=True)
    if progress < 0.2:
        chance = r.random()
        return copy_task(r) if chance < 0.15 else dialogue(r, short=chance < 0.5)
    chance = r.random()
    if chance < 0.1:
        return copy_task(r)
    return brief_dialogue(r) if chance < 0.45 else dialogue(r, short=chance < 0.5)


def batches(coder: Coder, r: Random, progress: float, tokens: int) -> Iterator[Batch]:
    """Batches of about `tokens` tokens, each of conversations of like length, in random order.

    Gives (ids, marks), both (rows, length); marks are of the token at that place.
    """
    pool = [coder.code(draw(r, progress)) for _ in range(POOL)]
    pool = sorted((made for made in pool if len(made[0]) <= LONGEST), key=lambda made: len(made[0]))
    groups: list[list[Coded]] = [[]]
    for made in pool:
        if (len(groups[-1]) + 1) * len(made[0]) > tokens:
            groups.append([])
        groups[-1].append(made)
    r.shuffle(groups)
    for group in groups:
        yield _stack(group, r)


def _stack(group: list[Coded], r: Random) -> Batch:
    length = -(-max(len(ids) for ids, _ in group) // STEP) * STEP
    ids = np.zeros((len(group), length), dtype=np.int64)
    marks = np.zeros((len(group), length), dtype=bool)
    noise = np.random.default_rng(r.getrandbits(32))
    for row, (tokens, learn) in enumerate(group):
        ids[row, : len(tokens)] = tokens
        others = noise.random(len(tokens)) < OTHERS
        marks[row, : len(tokens)] = np.array(learn) | others
    return torch.from_numpy(ids), torch.from_numpy(marks)
