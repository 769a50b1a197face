"""The base of every message model: unknown keys are refused, so that a typing error is an error."""

from pydantic import BaseModel, ConfigDict


class Message(BaseModel):
    """A message between processes. Immutable, closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)
