"""Prompts that do not fit a model's window: seen before an engine is loaded, or told by it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from contracts.errors import BadRequest

# No tokenizer takes more than this per token on average of a text that does not repeat itself.
MAX_CHARACTERS_PER_TOKEN = 8
# A run of one character can be a single token.
RUN = re.compile(r"(.)\1{3,}", re.DOTALL)
PIECE = 65_536
# Characters that are looked at; beyond them it is the engine that tells. Everybody waits meanwhile.
LOOKED_AT = 2**21
VLLM = ("maximum context length", "maximum model length")
# llama-server and TEI of an input that they embed or rerank.
LLAMA_INPUT = re.compile(r"input \((\d+) tokens\) is too large to process.*batch size: (\d+)")
TEI_INPUT = re.compile(r"must have less than (\d+) tokens\. Given: (\d+)")
REQUESTED = re.compile(r"requested (?:about )?(\d+)|length (?:of )?\(?(\d+)|has (\d+) input tokens")


@dataclass(frozen=True, slots=True)
class TooLong:
    """What an engine says of a prompt: its tokens, and how many it would take. None: it does not
    say."""

    tokens: int | None
    window: int | None = None


def surely_too_long(value: dict[str, Any], body_size: int, window: int) -> bool:
    """Whether a request cannot fit `window` tokens, whatever the tokenizer."""
    most = window * MAX_CHARACTERS_PER_TOKEN
    if body_size <= 2 * window:
        # Even tokens given as numbers take two bytes each.
        return False
    look = _Look(most)
    prompt = value.get("prompt")
    if isinstance(prompt, list):
        return any(_prompt_too_long(each, window, look) for each in chain((prompt,), prompt))
    if body_size <= most:
        return False
    texts = _message_texts(value.get("messages")) if prompt is None else iter((prompt,))
    return look.more_than_fits(texts)


def _prompt_too_long(prompt: object, window: int, look: "_Look") -> bool:
    if isinstance(prompt, list):
        start = prompt[: window + 1]
        return len(start) > window and all(isinstance(token, int) for token in start)
    return isinstance(prompt, str) and look.more_than_fits(iter((prompt,)))


def _message_texts(messages: object) -> Iterator[object]:
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, list):
            yield content
            continue
        yield from (part.get("text") for part in content if isinstance(part, dict))


class _Look:
    """At the texts of one request. `most`: characters that may fit."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = LOOKED_AT

    def more_than_fits(self, texts: Iterator[object]) -> bool:
        seen = 0
        for text in texts:
            if not isinstance(text, str):
                continue
            for at in range(0, len(text), PIECE):
                if self._left <= 0:
                    return False
                # Piece by piece, so that no more of a long text is looked at than is needed.
                piece = text[at : at + PIECE]
                self._left -= len(piece)
                seen += len(RUN.sub(r"\1", piece))
                if seen > self._most:
                    return True
        return False


def engine_says_too_long(status: int, error: dict[str, Any]) -> TooLong | None:
    """What an engine's error says of the window; None: it is another error."""
    message = str(error.get("message", ""))
    if found := LLAMA_INPUT.search(message):
        return TooLong(int(found[1]), int(found[2]))
    if found := TEI_INPUT.search(message):
        return TooLong(int(found[2]), int(found[1]))
    if status != 400:
        return None
    if error.get("type") == "exceed_context_size_error":
        tokens = error.get("n_prompt_tokens")
        return TooLong(tokens if isinstance(tokens, int) else None)
    if not any(words in message for words in VLLM):
        return None
    found = REQUESTED.search(message)
    return TooLong(int(next(filter(None, found.groups()))) if found else None)


def exceeded(name: str, window: int, tokens: int | None, characters: int | None) -> BadRequest:
    asked = f"{tokens} tokens" if tokens else f"{characters} bytes, surely more than that,"
    return BadRequest(
        "context_length_exceeded",
        f"This model's maximum context length is {window} tokens ({name}); {asked} were asked for.",
        "Shorten the prompt, or ask for a model with a longer window (GET /v1/models).",
    )
