"""The routes and headers that pass, as data. What is not listed here does not reach an engine."""

from dataclasses import dataclass
from typing import Literal

from contracts.manifest import ModelKind

Form = Literal["json", "multipart", "rerank"]


@dataclass(frozen=True, slots=True)
class Route:
    """A route that leads to an engine. `path` is what the engine is asked, whatever the client
    wrote. `done`: its event streams end with [DONE]. `model_needed`: a request has to name one."""

    name: str
    kinds: tuple[ModelKind, ...]
    path: str
    form: Form = "json"
    done: bool = False
    model_needed: bool = True


CHAT: tuple[ModelKind, ...] = ("chat", "classify")
POSTS = {
    "/v1/chat/completions": Route("chat", CHAT, "/v1/chat/completions", done=True),
    "/v1/completions": Route("completions", CHAT, "/v1/completions", done=True),
    "/v1/embeddings": Route("embeddings", ("embed",), "/v1/embeddings"),
    "/v1/rerank": Route("rerank", ("rerank",), "/v1/rerank", "rerank"),
    "/rerank": Route("rerank", ("rerank",), "/rerank", "rerank", model_needed=False),
    "/v1/audio/transcriptions": Route(
        "transcriptions", ("transcribe",), "/v1/audio/transcriptions", "multipart"
    ),
    "/v1/audio/translations": Route(
        "translations", ("transcribe",), "/v1/audio/translations", "multipart"
    ),
    "/v1/audio/speech": Route("speech", ("speech",), "/v1/audio/speech"),
}
OPENAI = "/v1/"
PROGRESS_ROUTES = frozenset({"chat", "completions"})

REQUEST_ID = "X-Request-Id"
MODEL = "X-Variet-Model"
QUEUE_MS = "X-Variet-Queue-Ms"
PRIORITY = "X-Variet-Priority"
PROGRESS = "X-Variet-Progress"
# Of an engine's answer; all others stay here.
DOWNSTREAM = ("Content-Type", "Cache-Control")
EVENTS = "text/event-stream"
