"""A stand-in for a Qdrant server: it holds every request and every answer against Qdrant's own
description of its API, and answers with qdrant-client's local mode.

Local mode has one tokenizer, so text indexes get that one here: questions are matched by whole
words, without stemming and stop words. Its answers otherwise are its own. No test of it says that
a real server was ever asked.
"""

import contextlib
import json
import threading
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from jsonschema import Draft202012Validator
from pydantic import BaseModel, TypeAdapter
from qdrant_client import QdrantClient, models

_SCHEMA = json.loads(Path(__file__).with_name("qdrant_schema.json").read_text(encoding="utf-8"))
_OPTIONAL_BOOLEAN = {"anyOf": [{"type": "boolean"}, {"type": "null"}]}


def _add_what_1_20_added(schemas: dict[str, Any]) -> None:
    """The schema is that of 1.19. What the index uses of 1.20, from the release notes of
    qdrant-js 1.20.0: https://github.com/qdrant/qdrant-js/releases/tag/v1.20.0"""
    schemas["TokenizerType"]["anyOf"].append({"const": "code"})
    schemas["TextIndexParams"]["properties"]["scoring"] = _OPTIONAL_BOOLEAN
    schemas["Query"]["anyOf"].append(
        {
            "type": "object",
            "properties": {"text": {"type": "string"}},
            "required": ["text"],
            "additionalProperties": False,
        }
    )


_add_what_1_20_added(_SCHEMA["components"]["schemas"])


class QdrantServer:
    """Serves on a free loopback port while entered. `requests` holds method, path and body of
    each request, `violations` what was not as described."""

    def __init__(self, key: str | None = None) -> None:
        self.version = "1.20.0"
        self.requests: list[tuple[str, str, Any]] = []
        self.violations: list[str] = []
        # What the next requests get instead of an answer: a status, or silence.
        self.failing: int | None = None
        self.retry_after: str | None = None
        self.silent = False
        # Breaks down at the request of this number, counted from 0, before or after doing it.
        self.breaks_at: int | None = None
        self.breaks_after_doing = False
        self._released = threading.Event()
        self._key = key
        self._lock = threading.Lock()
        self._local = QdrantClient(":memory:")
        self._port = 0
        self.start()

    def start(self) -> None:
        """Listen, on the former port if there was one."""
        served = self

        class Handler(BaseHTTPRequestHandler):
            def _any(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                if served.silent:
                    served._released.wait()
                    return
                status, answer = served._take(
                    self.command, self.path, body, self.headers.get("api-key")
                )
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                if served.retry_after and status == 429:
                    self.send_header("Retry-After", served.retry_after)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _any

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._http.server_port
        self.url = f"http://127.0.0.1:{self._port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        """Be gone; what it holds is there again after `start`."""
        self._released.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def __enter__(self) -> "QdrantServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._local.close()

    @property
    def collections(self) -> dict[str, dict[str, Any]]:
        """Names of the collections with their metadata."""
        names = [item.name for item in self._local.get_collections().collections]
        return {name: self._local.get_collection(name).config.metadata or {} for name in names}

    @property
    def aliases(self) -> dict[str, str]:
        return {a.alias_name: a.collection_name for a in self._local.get_aliases().aliases}

    @property
    def local(self) -> QdrantClient:
        """What it holds, to be changed behind the index's back."""
        return self._local

    def _take(self, method: str, target: str, body: Any, key: str | None) -> tuple[int, Any]:
        parts = urlsplit(target)
        number = len(self.requests)
        self.requests.append((method, parts.path, body))
        if self._key is not None and key != self._key:
            return 401, _refusal("Must provide an API key or an Authorization bearer token")
        broken = self.breaks_at is not None and number >= self.breaks_at
        last = number == self.breaks_at and self.breaks_after_doing
        if self.failing or (broken and not last):
            return self.failing or 500, _refusal("Service internal error")
        status, answer = self._do(method, parts.path, parts.query, body)
        return (500, _refusal("lost")) if broken else (status, answer)

    def _do(self, method: str, path: str, query: str, body: Any) -> tuple[int, Any]:
        found = _operation(method.lower(), path)
        if found is None:
            self.violations.append(f"{method} {path} is no operation")
            return 404, _refusal("no such path")
        described, template, name = found
        said = f"{method} {template}"
        self.violations += _errors(described["query"], _typed(query), f"{said} query")
        if described["body"] is not None:
            self.violations += _errors(described["body"], body, f"{said} body")
        elif body is not None:
            self.violations.append(f"{said} takes no body")
        try:
            with self._lock, _unwarned():
                result = self._perform(said, name, body)
        except ValueError as error:
            missing = "not found" in str(error)
            return (404 if missing else 400), _refusal(str(error))
        if said == "GET /":
            return 200, result if self.version else {"hello": "world"}
        answer = {"result": result, "status": "ok", "time": 0.001}
        self.violations += _errors(described["answer"], answer, f"{said} answer")
        return 200, answer

    def _perform(self, said: str, name: str, body: Any) -> Any:
        local = self._local
        points = "/collections/{collection_name}/points"
        match said:
            case "GET /":
                return {"title": "a stand-in for Qdrant", "version": self.version}
            case "GET /aliases":
                return _plain(local.get_aliases())
            case "GET /collections":
                return _plain(local.get_collections())
            case "GET /collections/{collection_name}":
                return _plain(local.get_collection(name))
            case "PUT /collections/{collection_name}":
                asked = models.CreateCollection.model_validate(body)
                return local.create_collection(
                    name, vectors_config=asked.vectors, metadata=asked.metadata
                )
            case "PATCH /collections/{collection_name}":
                return local.update_collection(name, metadata=body["metadata"])
            case "DELETE /collections/{collection_name}":
                return local.delete_collection(name)
            case "PUT /collections/{collection_name}/index":
                field = models.CreateFieldIndex.model_validate(body)
                schema = field.field_schema
                if isinstance(schema, models.TextIndexParams):
                    schema = models.TextIndexParams(type=schema.type, scoring=schema.scoring)
                return _plain(local.create_payload_index(name, field.field_name, schema))
            case "POST /collections/aliases":
                moves = models.ChangeAliasesOperation.model_validate(body)
                return local.update_collection_aliases(moves.actions)
            case _ if said == f"PUT {points}":
                listed = models.PointsList.model_validate(body)
                return _plain(local.upsert(name, listed.points))
            case _ if said == f"POST {points}/delete":
                chosen = models.FilterSelector.model_validate(body)
                return _plain(local.delete(name, chosen))
            case _ if said == f"POST {points}/scroll":
                scroll = models.ScrollRequest.model_validate(body)
                records, following = local.scroll(
                    name,
                    scroll_filter=scroll.filter,
                    limit=scroll.limit or 10,
                    offset=scroll.offset,
                    with_payload=scroll.with_payload or False,
                )
                return {"points": [_plain(r) for r in records], "next_page_offset": following}
            case _ if said == f"POST {points}/count":
                return _plain(local.count(name, exact=True))
            case _ if said == f"POST {points}/query":
                query = models.QueryRequest.model_validate(body)
                found = local.query_points(
                    name,
                    query=query.query,
                    prefetch=query.prefetch,
                    limit=query.limit or 10,
                    with_payload=query.with_payload or False,
                )
                return _plain(found)
        raise AssertionError(f"{said} is described, and not answered here")


def _operation(method: str, path: str) -> tuple[dict[str, Any], str, str] | None:
    """Its description, its path with the placeholder, and the collection's name in it."""
    if path in _SCHEMA["paths"]:
        described = _SCHEMA["paths"][path].get(method)
        return described and (described, path, "")
    _, _, name, *rest = [*path.split("/"), ""]
    template = "/".join(["", "collections", "{collection_name}", *[part for part in rest if part]])
    described = _SCHEMA["paths"].get(template, {}).get(method)
    return described and (described, template, name)


def _errors(schema: dict[str, Any], value: Any, said: str) -> Iterator[str]:
    whole = Draft202012Validator({**schema, "components": _SCHEMA["components"]})
    for error in whole.iter_errors(value):
        yield f"{said}{error.json_path[1:]}: {error.message[:300]}"


def _typed(query: str) -> dict[str, Any]:
    """The values that a query string stands for."""
    values: dict[str, Any] = {}
    for name, value in parse_qsl(query):
        with contextlib.suppress(ValueError):
            values[name] = json.loads(value)
            continue
        values[name] = value
    return values


def _plain(value: BaseModel) -> Any:
    return TypeAdapter(Any).dump_python(value, mode="json", exclude_none=True)


def _refusal(error: str) -> dict[str, Any]:
    return {"status": {"error": error}, "time": 0.0}


@contextlib.contextmanager
def _unwarned() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Payload indexes have no effect")
        yield
