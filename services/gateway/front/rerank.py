"""Reranking in two dialects: `documents` and `relevance_score` as llama-server and vLLM have it,
and TEI's own `texts` and `score`, translated for TEI."""

from dataclasses import dataclass
from typing import Any

import orjson

from contracts.errors import BadRequest
from services.gateway.front.envelope import shown

TEI_PATH = "/rerank"


@dataclass(frozen=True, slots=True)
class Translation:
    """`body` is what TEI is asked instead; `answer` makes of its answer what was asked for."""

    body: bytes
    documents: tuple[str, ...]
    top_n: int
    return_documents: bool

    def answer(self, told: bytes, model: str) -> bytes:
        """Raises ValueError for what is no answer of TEI's."""
        results = []
        items = orjson.loads(told)
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise ValueError("it is no list of objects")
        for item in items:
            index, score = item.get("index"), item.get("score")
            if not isinstance(index, int) or not 0 <= index < len(self.documents):
                raise ValueError("an index is none of a document")
            if not isinstance(score, int | float):
                raise ValueError("a score is no number")
            result: dict[str, Any] = {"index": index, "relevance_score": score}
            if self.return_documents:
                result["document"] = {"text": self.documents[index]}
            results.append(result)
        results.sort(key=lambda result: result["relevance_score"], reverse=True)
        usage = {"prompt_tokens": 0, "total_tokens": 0}
        whole = {
            "model": model,
            "object": "list",
            "usage": usage,
            "results": results[: self.top_n],
        }
        return orjson.dumps(whole)


def for_tei(value: dict[str, Any]) -> Translation | None:
    """None: it is asked in TEI's own words. Raises BadRequest."""
    if "texts" in value and "documents" not in value:
        return None
    query, documents = value.get("query"), value.get("documents")
    if not isinstance(query, str):
        raise _bad("query", query, "text")
    if not isinstance(documents, list) or not documents:
        raise _bad("documents", documents, "a list of texts")
    texts = tuple(_text(document) for document in documents)
    top_n = value.get("top_n")
    if top_n is not None and (not isinstance(top_n, int) or isinstance(top_n, bool) or top_n < 1):
        raise _bad("top_n", top_n, "a number from 1")
    body = orjson.dumps({"query": query, "texts": texts, "return_text": False})
    most = len(texts) if top_n is None else top_n
    return Translation(body, texts, most, value.get("return_documents") is True)


def _text(document: object) -> str:
    text = document.get("text") if isinstance(document, dict) else document
    if not isinstance(text, str):
        raise _bad("documents", document, "texts, or objects with a `text`")
    return text


def _bad(key: str, value: object, wanted: str) -> BadRequest:
    return BadRequest("bad_rerank", f"{key}={shown(value)} has to be {wanted}.", "Correct it.")
