"""The model catalogue: what a model is, where it comes from and what it needs.

`models/manifest.yaml` holds the entries. `contracts.preset` says which of them a machine serves.
"""

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from contracts.base import Message

ModelKind = Literal["chat", "embed", "rerank", "classify", "transcribe", "speech"]
ModelEngine = Literal["llama.cpp", "vllm", "tei", "in-process"]
Tier = Literal["fast", "balanced", "deep"]
ModelId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]

FILE = "file:"
REPOSITORY = "hf:"
PACKAGE = "package:"
WEB = ("https://", "http://")


class ModelSource(Message):
    """Where a model's weights are.

    `https://...`: one file, which `variet models pull` fetches. `file:PATH`: one file of this
    repository. `hf:OWNER/NAME@REVISION`: a repository that the engine fetches by itself.
    `package:NAME`: files of an installed Python package.
    """

    url: str
    sha256: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="of the file; null: the hub is asked for it at the first pull",
    )
    bytes: int | None = Field(None, gt=0, description="size of the file")

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        if not url.startswith((*WEB, FILE, REPOSITORY, PACKAGE)):
            raise ValueError("has to start with https://, file:, hf: or package:")
        if url.startswith(WEB) and urlsplit(url).path.rpartition("/")[2] in ("", ".", ".."):
            raise ValueError("has to end with the name of a file")
        if url.startswith(FILE) and (url.startswith("file:/") or ".." in url):
            raise ValueError("file: takes a path inside the repository")
        return url

    @model_validator(mode="after")
    def _hash_fits_scheme(self) -> Self:
        known = self.sha256 is not None or self.bytes is not None
        if self.url.startswith((REPOSITORY, PACKAGE)) and known:
            raise ValueError("only a single file has sha256 and bytes")
        return self

    @property
    def is_web(self) -> bool:
        return self.url.startswith(WEB)

    @property
    def repository(self) -> str | None:
        """OWNER/NAME on the hub of what an engine fetches by itself."""
        if not self.url.startswith(REPOSITORY):
            return None
        return self.url.removeprefix(REPOSITORY).partition("@")[0]

    @property
    def revision(self) -> str | None:
        """The commit of that repository; None: the newest."""
        named = self.url.startswith(REPOSITORY)
        return self.url.partition("@")[2] or None if named else None

    @property
    def file_name(self) -> str | None:
        """Of a single file, its name in the model store."""
        return None if self.url.startswith((REPOSITORY, PACKAGE)) else self.url.rpartition("/")[2]


class KvShape(Message):
    """What the attention of a model keeps of each token: keys and values of `layers` layers, and of
    `window_layers` more, which keep the last `window` tokens only."""

    layers: int = Field(gt=0)
    heads: int = Field(gt=0, description="of keys and values, not of queries")
    head_dim: int = Field(gt=0)
    window_layers: int = Field(0, ge=0)
    window: int = Field(0, ge=0, description="tokens")
    source: str = Field(min_length=1, description="where these figures are from")

    def mib(self, context: int, bytes_each: float) -> float:
        """Memory of one request of `context` tokens, with `bytes_each` per number."""
        tokens = self.layers * context + self.window_layers * min(context, self.window)
        return tokens * 2 * self.heads * self.head_dim * bytes_each / 2**20


class ManifestEntry(Message):
    """One model. Memory figures are whole MiB with the weights and one request's `context`."""

    id: ModelId
    about: str = Field(min_length=1, description="what it is good for, in one sentence")
    kind: ModelKind
    engine: ModelEngine
    source: ModelSource
    licence: str = Field(min_length=1, description="SPDX name, or the licence's own name")
    context: int = Field(ge=256, description="tokens per request that it is started with")
    vram_mib: int = Field(ge=0, description="over all cards; 0: runs on the CPU")
    ram_mib: int = Field(ge=0)
    weights_mib: int | None = Field(
        None, gt=0, description="of a repository's weights once loaded; of a file: its size"
    )
    kv: KvShape | None = None
    dimension: int | None = Field(None, gt=0, description="numbers of an embedding")
    reasoning_field: Literal["reasoning_content", "reasoning"] | None = Field(
        None, description="where its engine puts the thinking; null: it does not think"
    )
    tools_evaluated: tuple[str, ...] | None = Field(
        None, description="the only tools that it is offered; null: all"
    )
    context_max: int | None = Field(
        None, description="tokens that it can be started with at most; null: `context`"
    )
    long_context: ModelId | None = Field(
        None, description="the entry that takes prompts beyond `context`; null: they are refused"
    )

    @model_validator(mode="after")
    def _max_is_more(self) -> Self:
        if self.context_max is not None and self.context_max < self.context:
            raise ValueError(f"context_max={self.context_max} is below context={self.context}")
        return self

    @property
    def context_limit(self) -> int:
        return self.context_max or self.context

    @property
    def weights(self) -> int | None:
        """MiB; None: not known."""
        size = self.source.bytes
        return self.weights_mib or (None if size is None else -(-size // 2**20))


class Manifest(Message):
    """The catalogue. Ids are unique; the order is the order of preference."""

    models: tuple[ManifestEntry, ...]

    @model_validator(mode="after")
    def _unique(self) -> Self:
        ids = [entry.id for entry in self.models]
        if twice := {name for name in ids if ids.count(name) > 1}:
            raise ValueError(f"id {', '.join(sorted(twice))} occurs more than once")
        return self

    @model_validator(mode="after")
    def _long_is_longer(self) -> Self:
        for entry in self.models:
            if entry.long_context is None:
                continue
            other = self.get(entry.long_context)
            if other is None or other.kind != entry.kind or other.context <= entry.context:
                raise ValueError(
                    f"{entry.id}: long_context={entry.long_context} is no {entry.kind} entry with"
                    f" more than {entry.context} tokens"
                )
        return self

    def get(self, model_id: str) -> ManifestEntry | None:
        return next((entry for entry in self.models if entry.id == model_id), None)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(entry.id for entry in self.models)
