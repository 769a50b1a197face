"""The openai client's `chat.completions`, reduced to what langchain-openai asks of it.

The client's own method walks the request along the types of its parameters, and builds a pydantic
model of every chunk. LangChain writes requests that need no such walk, and takes chunks as plain
dictionaries. Leaving both out saves about a quarter of the processor time of a turn.
"""

from typing import Any

import openai

ChunkStream = openai.AsyncStream[object]  # `object` leaves the JSON of a chunk as it is


class Completions:
    """What ChatOpenAI takes as its `async_client`; it always streams."""

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self._client = client

    async def create(
        self, *, extra_body: dict[str, Any] | None = None, **body: Any
    ) -> openai.AsyncStream[object]:
        """The stream of an answer's chunks. Raises openai.APIError, as the client does."""
        return await self._client.post(
            "/chat/completions",
            cast_to=object,
            body={**body, **(extra_body or {})},
            stream=True,
            stream_cls=ChunkStream,
        )
