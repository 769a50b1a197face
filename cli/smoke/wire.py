"""HTTP to a server of the brain, with every failure in words."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from json import JSONDecodeError
from typing import Any

import httpx2

from cli.smoke.table import Failed
from contracts.errors import Unauthorized, Unavailable, VarietError

TIMEOUT = httpx2.Timeout(120.0, connect=5.0)


@dataclass(frozen=True)
class Spoken:
    """One streamed answer. Times are in seconds; `tokens` is the server's count."""

    text: str
    tokens: int
    first_token_s: float
    total_s: float

    @property
    def tokens_per_s(self) -> float:
        writing = self.total_s - self.first_token_s
        return (self.tokens - 1) / writing if self.tokens > 1 and writing > 0 else 0.0


class Server:
    """A server at `url`. `setting` and `key_setting` name what to correct when it does not answer,
    or refuses."""

    def __init__(
        self,
        name: str,
        url: str,
        key: str | None,
        setting: str,
        key_setting: str,
        timeout: httpx2.Timeout = TIMEOUT,
    ) -> None:
        self.name = name
        self.url = url.rstrip("/")
        self._key = key
        self._setting = setting
        self._key_setting = key_setting
        self.timeout = timeout

    def get(self, path: str) -> Any:
        return self._json("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._json("POST", path, body)

    def refuses(self, path: str, body: dict[str, Any]) -> None:
        """Raises Failed unless it turns away who has no key, or a wrong one."""
        for kind, key in (("without a key", None), ("with a wrong key", "wrong" * 8)):
            with self._request("POST", path, body, key) as answer:
                if answer.status_code not in (401, 403):
                    raise Failed(
                        f"{self.name} at {self.url} answered {answer.status_code} {kind}.",
                        "Anyone on the network can use it. Set its key, then: make up",
                    )

    def chat(self, model: str, question: str, max_tokens: int) -> Spoken:
        """Ask and read the stream to its end. Raises Failed when no token came."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        began = time.monotonic()
        first, counted, tokens, pieces = None, 0, 0, []
        with self._request("POST", "/chat/completions", body, self._key) as answer:
            self._check(answer)
            for event in self._events(answer):
                delta = (event.get("choices") or [{}])[0].get("delta") or {}
                piece = delta.get("content") or delta.get("reasoning_content")
                if piece:
                    first = first or time.monotonic()
                    pieces.append(piece)
                    counted += 1
                tokens = (event.get("usage") or {}).get("completion_tokens") or tokens
        if first is None:
            raise Failed(
                f"{self.name} at {self.url} streamed no text.", f"Look at: make logs S={self.name}"
            )
        ended = time.monotonic()
        return Spoken("".join(pieces), tokens or counted, first - began, ended - began)

    def _json(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        with self._request(method, path, body, self._key) as answer:
            self._check(answer)
            try:
                return json.loads(answer.read())
            except JSONDecodeError as error:
                raise self._stranger(answer) from error

    def _request(
        self, method: str, path: str, body: dict[str, Any] | None, key: str | None
    ) -> "_Answer":
        return _Answer(self, method, path, body, key)

    def _events(self, answer: httpx2.Response) -> Iterator[dict[str, Any]]:
        try:
            for text in answer.iter_lines():
                if text.startswith("data:") and text[5:].strip() not in ("", "[DONE]"):
                    event = json.loads(text[5:])
                    if "error" in event:
                        raise Failed(
                            f"{self.name} broke off: {event['error']}.",
                            f"Look at: make logs S={self.name}",
                        )
                    yield event
        except JSONDecodeError as error:
            raise self._stranger(answer) from error
        except httpx2.TransportError as error:
            raise self.away(error) from error

    def _check(self, answer: httpx2.Response) -> None:
        if answer.is_success:
            return
        answer.read()
        if answer.status_code in (401, 403):
            raise Unauthorized(
                "wrong_key",
                f"{self.name} at {self.url} refused our key ({answer.status_code}).",
                f"Correct {self._key_setting}, the same one on both hosts; then: make restart",
            )
        raise Failed(
            f"{self.name} at {self.url} answered {answer.status_code}: {answer.text[:200]}",
            f"Look at: make logs S={self.name}",
        )

    def _stranger(self, answer: httpx2.Response) -> VarietError:
        return Failed(
            f"{self.url} answered {answer.status_code}, but not as {self.name} does.",
            f"Another program may have that port. Check {self._setting}.",
        )

    def away(self, error: Exception) -> VarietError:
        said = str(error) or type(error).__name__
        return Unavailable(
            "no_answer",
            f"{self.name} does not answer at {self.url}: {said}.",
            f"Is it up there (make ps)? Else check {self._setting}.",
        )


class _Answer:
    """One request; entered, the answer with its body unread."""

    def __init__(
        self, server: Server, method: str, path: str, body: dict[str, Any] | None, key: str | None
    ) -> None:
        self._server = server
        # A proxy of the environment is for the internet, not for the LAN.
        self._http = httpx2.Client(timeout=server.timeout, trust_env=False)
        self._request = self._http.build_request(
            method,
            f"{server.url}{path}",
            json=body,
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )

    def __enter__(self) -> httpx2.Response:
        try:
            return self._http.send(self._request, stream=True)
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            self._http.close()
            raise self._server.away(error) from error

    def __exit__(self, *_: object) -> None:
        self._http.close()
