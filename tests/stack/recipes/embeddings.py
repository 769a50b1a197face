#!/opt/venv/bin/python -P
"""Our encoder behind the routes that Text Embeddings Inference has: /health, /v1/embeddings.

Reads PORT and API_KEY, as TEI does; the model is all-MiniLM-L6-v2, whatever MODEL_ID says.
"""

import hmac
import os
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Header, HTTPException
from pydantic import BaseModel

from orchestrator.knowledge.embedding import LocalEmbedder

KEY = os.environ.get("API_KEY", "")
app = FastAPI()
embedder = LocalEmbedder()


class Wanted(BaseModel):
    input: str | list[str]
    model: str = ""


@app.get("/health")
async def health() -> dict[str, str]:
    return {}


@app.post("/v1/embeddings")
async def embeddings(
    wanted: Wanted, authorization: Annotated[str, Header()] = ""
) -> dict[str, Any]:
    if KEY and not hmac.compare_digest(authorization.encode(), f"Bearer {KEY}".encode()):
        raise HTTPException(401, "Unauthorized")
    texts = [wanted.input] if isinstance(wanted.input, str) else wanted.input
    rows = (await embedder.embed(texts)).tolist()
    data = [{"object": "embedding", "index": n, "embedding": row} for n, row in enumerate(rows)]
    usage = {"prompt_tokens": 0, "total_tokens": 0}
    return {"object": "list", "data": data, "model": embedder.model, "usage": usage}


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ["PORT"]), log_level="warning")
