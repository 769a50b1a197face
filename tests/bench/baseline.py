"""The baseline: LangChain's create_agent with an in-memory saver behind a FastAPI route.

Nothing survives it: no store, no journal, no event log, no approval, no check of arguments beyond
LangChain's own. Run by `tests.bench`: `python -m tests.bench.baseline ENGINE_URL`.
"""

import json
import socket
import sys
import uuid
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from langchain.agents import create_agent
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel, SecretStr

from orchestrator.agent.prompt import SYSTEM_PROMPT
from tests.bench.process import loopback_listener
from tests.bench.tool import DESCRIPTION, NAME, value_at


class Question(BaseModel):
    message: str
    thread_id: str | None = None
    stream: bool = False


@tool(NAME, description=DESCRIPTION)
async def read_value(series: str, position: int) -> dict[str, object]:
    return value_at(series, position)


def create_app(engine_url: str) -> FastAPI:
    model = ChatOpenAI(
        model="scripted", base_url=engine_url, api_key=SecretStr("none"), temperature=0
    )
    agent = create_agent(
        model, [read_value], system_prompt=SYSTEM_PROMPT, checkpointer=InMemorySaver()
    )
    app = FastAPI()

    @app.post("/chat")
    async def chat(question: Question) -> Any:
        thread = question.thread_id or uuid.uuid4().hex
        config: RunnableConfig = {"configurable": {"thread_id": thread}}
        state: Any = {"messages": [HumanMessage(question.message)]}
        if not question.stream:
            final = await agent.ainvoke(state, config)
            return {"thread_id": thread, "answer": final["messages"][-1].content}

        async def events() -> AsyncIterator[str]:
            async for chunk, _ in agent.astream(state, config, stream_mode="messages"):
                if isinstance(chunk, AIMessageChunk) and chunk.content:
                    yield f"event: token\ndata: {json.dumps({'text': chunk.content})}\n\n"
            yield f"event: end\ndata: {json.dumps({'thread_id': thread})}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return app


class Server(uvicorn.Server):
    """Says where it listens, as soon as it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            print(json.dumps({"url": url}), flush=True)


if __name__ == "__main__":
    config = uvicorn.Config(create_app(sys.argv[1]), log_config=None, access_log=False)
    Server(config).run(sockets=[loopback_listener()])
