"""What the fake engine says: llama-server's answers, field by field. A token is a word."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any

BUILD = "b11669-fake"
WORDS = ("I", "am", "not", "a", "model,", "only", "a", "stand-in.")
NUMBERS = count(1)


def error(status: int, message: str, kind: str) -> tuple[dict[str, Any], int]:
    return {"error": {"code": status, "message": message, "type": kind}}, status


def models(name: str, context: int) -> dict[str, Any]:
    meta = {"n_ctx": context, "n_ctx_train": 2 * context}
    data = [{"id": name, "object": "model", "owned_by": "llamacpp", "meta": meta}]
    return {"object": "list", "data": data}


def vectors(name: str, body: dict[str, Any]) -> dict[str, Any]:
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    rows = [[float(len(str(text))), 1.0, 0.0, 0.0] for text in texts]
    data = [{"object": "embedding", "index": n, "embedding": row} for n, row in enumerate(rows)]
    tokens = sum(len(str(text).split()) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": name, "usage": usage}


def scores(name: str, body: dict[str, Any]) -> dict[str, Any]:
    asked = set(str(body["query"]).split())
    found = [len(asked & set(str(text).split())) for text in body["documents"]]
    results = [{"index": n, "relevance_score": float(score)} for n, score in enumerate(found)]
    return {"object": "list", "model": name, "results": results}


def prompt_words(body: dict[str, Any]) -> list[str]:
    if "messages" not in body:
        return str(body.get("prompt", "")).split()
    words: list[str] = []
    for message in body["messages"]:
        words += str(message.get("content") or "").split()
    return words


@dataclass(frozen=True)
class Completion:
    """One answer of `text` tokens after `thinking` ones; `finish` says why it ends."""

    name: str
    chat: bool
    prompt: list[str]
    cached: int
    thinking: int
    text: int
    finish: str
    id: str
    created: int

    @property
    def words(self) -> list[str]:
        return [WORDS[n % len(WORDS)] + " " for n in range(self.text)]

    def _frame(self, choices: list[dict[str, Any]], whole: bool = False) -> dict[str, Any]:
        kind = "chat.completion" if self.chat else "text_completion"
        return {
            "choices": choices,
            "created": self.created,
            "id": self.id,
            "model": self.name,
            "system_fingerprint": BUILD,
            "object": kind if whole or not self.chat else f"{kind}.chunk",
        }

    def _delta(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return self._frame([{"finish_reason": finish, "index": 0, "delta": delta}])

    def _text(self, text: str, finish: str | None = None) -> dict[str, Any]:
        return self._frame([{"text": text, "index": 0, "logprobs": None, "finish_reason": finish}])

    def chunks(self) -> Iterator[dict[str, Any]]:
        """One per token."""
        if not self.chat:
            yield from (self._text(word) for word in self.words)
            return
        for _ in range(self.thinking):
            yield self._delta({"reasoning_content": "hm "})
        yield from (self._delta({"content": word}) for word in self.words)

    def last(self, timings: dict[str, Any], usage: bool) -> Iterator[dict[str, Any]]:
        counted = {"usage": self.usage(), "timings": timings}
        if not self.chat:
            yield {**self._text("", self.finish), **counted}
            return
        end = self._delta({}, self.finish)
        if not usage:
            yield {**end, "timings": timings}
            return
        yield end
        yield {**self._frame([]), **counted}

    def whole(self, timings: dict[str, Any]) -> dict[str, Any]:
        text = "".join(self.words)
        if self.chat:
            message: dict[str, Any] = {"role": "assistant", "content": text}
            if self.thinking:
                message["reasoning_content"] = "hm " * self.thinking
            choice = {"finish_reason": self.finish, "index": 0, "message": message}
        else:
            choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": self.finish}
        return {**self._frame([choice], whole=True), "usage": self.usage(), "timings": timings}

    def usage(self) -> dict[str, Any]:
        made = self.thinking + self.text
        return {
            "completion_tokens": made,
            "prompt_tokens": len(self.prompt),
            "total_tokens": made + len(self.prompt),
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }

    def timings(self, prompt_s: float, text_s: float) -> dict[str, Any]:
        made, read = self.thinking + self.text, len(self.prompt) - self.cached
        return {
            "cache_n": self.cached,
            "prompt_n": read,
            "prompt_ms": prompt_s * 1_000,
            "prompt_per_second": read / max(prompt_s, 1e-6),
            "predicted_n": made,
            "predicted_ms": text_s * 1_000,
            "predicted_per_second": made / max(text_s, 1e-6),
        }


def completion(
    name: str, path: str, body: dict[str, Any], chunks: int, thinking: int, cached: list[str]
) -> Completion:
    """The answer to a request. `cached` are the words of the prompt before."""
    prompt = prompt_words(body)
    same = takewhile(lambda pair: pair[0] == pair[1], zip(prompt, cached, strict=False))
    most = body.get("max_completion_tokens") or body.get("max_tokens") or chunks
    chat = "chat" in path
    return Completion(
        name=name,
        chat=chat,
        prompt=prompt,
        cached=sum(1 for _ in same),
        thinking=thinking if chat else 0,
        text=min(chunks, most),
        finish="length" if most < chunks else "stop",
        id=f"chatcmpl-fake-{next(NUMBERS)}",
        created=int(time.time()),
    )
