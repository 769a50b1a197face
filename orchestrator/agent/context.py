"""Fits a thread into the engine's window. What is left out is said, to the model and the user.

Sizes are estimated from characters; the ratio is corrected by what the engine counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from contracts.errors import Unprocessable

DEFAULT_CHARACTERS_PER_TOKEN = 2.5  # low for English, so that a first estimate is on the safe side
MESSAGE_OVERHEAD_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Fitted:
    """The messages to send. `note` says what was left out, or is None."""

    messages: list[BaseMessage]
    note: str | None


class Aside(HumanMessage):
    """Something that the agent says to the model, in the user's place. It is no question: the
    turn that it belongs to began before it."""

    def __init__(self, content: str, **fields: Any) -> None:
        super().__init__(content=content, **fields)


class Window:
    """Decides what of a thread an engine gets to see. Sizes are in tokens: `context` of the whole
    window, `answer` kept free in it, `head` of the system prompt and the tools."""

    def __init__(self, context: int, answer: int, head_characters: int) -> None:
        self.context = context
        self._answer = answer
        self._ratio = DEFAULT_CHARACTERS_PER_TOKEN
        # How tools are written down is the chat template's choice, so this is a rough guess, and
        # never more than half of the window.
        self._head = min(self._tokens(head_characters), context // 2)
        self._measured = False

    def resize(self, context: int, answer: int) -> None:
        """Another engine answers from now on: a window of `context`, `answer` kept free in it."""
        self.context, self._answer = context, answer
        self._head = min(self._head, context // 2)
        self._measured = False

    def measure_head(self, tokens: int) -> None:
        """The engine counted this many tokens for a prompt that is hardly more than the head."""
        if tokens > 0:
            self._head = tokens
            self._measured = True

    def learn(self, characters: int, tokens: int) -> None:
        """Correct the estimates by messages of `characters`, in a prompt that the engine counted
        as `tokens`."""
        if not self._measured:
            self.measure_head(tokens - self._tokens(characters))
        elif tokens - self._head > 50:
            self._ratio = min(6.0, max(1.0, 0.97 * characters / (tokens - self._head)))

    def shrink(self, messages: Sequence[BaseMessage]) -> None:
        """The engine found these too long, though they seemed to fit: estimate so much higher
        that they do not fit any more."""
        seemed = self._size(messages) / max(1, self._room)
        self._ratio = max(0.1, self._ratio * 0.8 * min(1.0, seemed))

    def fit(self, messages: Sequence[BaseMessage]) -> Fitted:
        """Leave out, as far as needed: old tool results, then the oldest turns, then the bulk of
        this turn's tool results. Raises Unprocessable if the question alone is too long."""
        room = self._room
        if self._size(messages) <= room:
            return Fitted(list(messages), None)
        start = _last_question(messages)
        past, turn = list(messages[:start]), list(messages[start:])
        past, shortened = _without_results(past)
        left_out = 0
        while past and self._size([*past, *turn]) > room:
            size = _first_turn(past)
            left_out += size
            past = past[size:]
        if not past:
            shortened = 0
        if self._size(turn) > room:
            earlier, more = _without_results(turn[:-1])
            turn = [*earlier, turn[-1]]
            shortened += more
        if self._size(turn) > room:
            raise Unprocessable(
                "context_overflow",
                f"The message needs about {self._size(turn)} tokens; {max(room, 0)} of the"
                f" engine's {self.context} are free.",
                "Shorten it, or use a model with a larger window.",
            )
        note = _note(left_out, shortened)
        return Fitted(_with_note([*past, *turn], note), note)

    @property
    def _room(self) -> int:
        return self.context - self._answer - self._head

    def _size(self, messages: Sequence[BaseMessage]) -> int:
        return sum(self._tokens(characters(m)) + MESSAGE_OVERHEAD_TOKENS for m in messages)

    def _tokens(self, count: int) -> int:
        return int(count / self._ratio) + 1


def characters(message: BaseMessage) -> int:
    """Characters that a message puts into a prompt, tool calls included."""
    size = len(str(message.content))
    if isinstance(message, AIMessage):
        size += sum(len(c["name"]) + len(str(c["args"])) + 40 for c in message.tool_calls)
    return size


def _is_question(message: BaseMessage) -> bool:
    return isinstance(message, HumanMessage) and not isinstance(message, Aside)


def _last_question(messages: Sequence[BaseMessage]) -> int:
    for index in range(len(messages) - 1, -1, -1):
        if _is_question(messages[index]):
            return index
    return 0


def _first_turn(messages: Sequence[BaseMessage]) -> int:
    for index in range(1, len(messages)):
        if _is_question(messages[index]):
            return index
    return len(messages)


def _without_results(messages: list[BaseMessage]) -> tuple[list[BaseMessage], int]:
    shorter: list[BaseMessage] = []
    count = 0
    for message in messages:
        if isinstance(message, ToolMessage) and len(str(message.content)) > 200:
            count += 1
            text = f"[a tool result of {len(str(message.content))} characters was left out]"
            message = ToolMessage(text, tool_call_id=message.tool_call_id)
        shorter.append(message)
    return shorter, count


def _note(left_out: int, shortened: int) -> str:
    parts = []
    if left_out:
        parts.append(f"{left_out} earlier message{'s' if left_out > 1 else ''}")
    if shortened:
        parts.append(f"{shortened} earlier tool result{'s' if shortened > 1 else ''}")
    return "left out to fit the window: " + " and ".join(parts)


def _with_note(messages: list[BaseMessage], note: str) -> list[BaseMessage]:
    """The note goes in front of the first question that is left."""
    for index, message in enumerate(messages):
        if isinstance(message, HumanMessage):
            noted = message.model_copy(update={"content": f"[{note}]\n{message.content}"})
            return [*messages[:index], noted, *messages[index + 1 :]]
    return [HumanMessage(f"[{note}]"), *messages]
