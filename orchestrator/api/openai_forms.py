"""What OpenAI's clients send and read, as far as the agent has a use for it."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from contracts.errors import BadRequest
from orchestrator.agent.values import is_text
from orchestrator.api.errors import shown


class Form(BaseModel):
    """Keys that are not known are accepted: clients send many."""

    model_config = ConfigDict(extra="ignore")


class InMessage(Form):
    """One message: text, or parts that are all text."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None

    @field_validator("content")
    @classmethod
    def _only_text(cls, content: Any) -> Any:
        if not isinstance(content, list):
            return content
        for part in content:
            kind = part.get("type")
            if kind not in ("text", "refusal"):
                raise ValueError(f"parts of type {shown(kind)} are not understood, only text")
            # Parts are open to any key, so their text has not been checked to be text.
            if not isinstance(part.get(kind), str) or not is_text(part[kind]):
                raise ValueError(f"a part of type {kind} has no {kind} that is text")
        return content

    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part[part["type"]] for part in self.content or [])


class Metadata(Form):
    thread_id: str | None = None


class StreamOptions(Form):
    include_usage: bool = False


class Completion(Form):
    """A chat completion request for the agent. Sampling options are the orchestrator's."""

    model: str
    messages: list[InMessage] = Field(min_length=1)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    metadata: Metadata | None = None
    response_format: dict[str, Any] | None = None
    n: Literal[1] | None = None


class Embeddings(Form):
    model: str = ""
    input: str | list[str]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "variet"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


def schema_of(response_format: dict[str, Any] | None) -> dict[str, Any] | None:
    """The JSON Schema that an answer has to satisfy; None for text. Raises BadRequest."""
    kind = (response_format or {}).get("type", "text")
    if response_format is None or kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    form = response_format.get("json_schema")
    schema = form.get("schema") if isinstance(form, dict) else None
    if kind != "json_schema" or not isinstance(schema, dict):
        raise BadRequest(
            "bad_response_format",
            f"response_format={shown(kind)} carries no json_schema.schema.",
            "Send {type: json_schema, json_schema: {name, schema}}.",
        )
    return schema


def inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with each reference to its own definitions replaced by what it refers to. It must
    not refer to itself."""
    definitions = schema.get("$defs", {})

    def resolved(part: Any) -> Any:
        if isinstance(part, list):
            return [resolved(inner) for inner in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return resolved(definitions[part["$ref"].rsplit("/", 1)[1]])
        return {key: resolved(inner) for key, inner in part.items() if key != "$defs"}

    whole: dict[str, Any] = resolved(schema)
    return whole
