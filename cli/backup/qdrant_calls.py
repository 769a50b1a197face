"""Qdrant's snapshots over its HTTP API. https://api.qdrant.tech/api-reference/snapshots

Standard library only: Qdrant is not published on the host, so this file is handed, as it is, to
the Python of the orchestrator's container, which has QDRANT_URL and QDRANT_API_KEY:

    python -c SOURCE list                        # {alias: collection} of ours, JSON
    python -c SOURCE save COLLECTION > snapshot
    python -c SOURCE load ALIAS BYTES < snapshot # a new collection takes over the alias
    python -c SOURCE point ALIAS [COLLECTION]    # without a collection: forget the alias
    python -c SOURCE drop COLLECTION
"""

import http.client
import json
import os
import sys
import uuid
from collections.abc import Iterator
from typing import IO, Any
from urllib.parse import quote, urlsplit

PREFIX = "variet-"
BLOCK = 1 << 20
TIMEOUT_S = 600.0


class Refused(Exception):
    """Qdrant answered with an error."""


def aliases() -> dict[str, str]:
    listed = _json("GET", "/aliases")["result"]["aliases"]
    return {
        one["alias_name"]: one["collection_name"]
        for one in listed
        if one["alias_name"].startswith(PREFIX)
    }


def save(collection: str, out: IO[bytes]) -> None:
    """Write a snapshot; Qdrant's own copy of it is removed."""
    at = f"/collections/{quote(collection)}/snapshots"
    made = _json("POST", f"{at}?wait=true")["result"]
    name, count = made["name"], 0
    try:
        connection, answer = _ask("GET", f"{at}/{quote(name)}")
        while block := answer.read(BLOCK):
            count += out.write(block)
        out.flush()
        connection.close()
        # Read in blocks, an answer that is cut short ends like a whole one.
        if count != made["size"]:
            raise Refused(f"of {name} came {count} bytes, not {made['size']}")
    finally:
        _json("DELETE", f"{at}/{quote(name)}?wait=true")


def load(alias: str, size: int, content: IO[bytes]) -> dict[str, str | None]:
    """Restore into a collection of a new name, then let `alias` mean it: `new`, and `old`, which
    is there still. On failure nothing has changed."""
    old = aliases().get(alias)
    new = f"{alias}.{uuid.uuid4().hex[:8]}"
    boundary = uuid.uuid4().hex
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="snapshot"; filename="snapshot"'
        "\r\nContent-Type: application/octet-stream\r\n\r\n"
    ).encode()
    tail = f"\r\n--{boundary}--\r\n".encode()
    headers = {
        "Content-Type": f"multipart/form-data; boundary={boundary}",
        "Content-Length": str(len(head) + size + len(tail)),
    }

    def body() -> Iterator[bytes]:
        yield head
        while block := content.read(BLOCK):
            yield block
        yield tail

    try:
        upload = f"/collections/{quote(new)}/snapshots/upload?priority=snapshot&wait=true"
        _json("POST", upload, body(), headers)
        point(alias, new)
    except BaseException:  # boundary: half a collection is of no use, whatever kept it so
        drop(new)
        raise
    return {"new": new, "old": old}


def point(alias: str, collection: str | None) -> None:
    actions: list[dict[str, Any]] = []
    if alias in aliases():
        actions.append({"delete_alias": {"alias_name": alias}})
    if collection:
        named = {"alias_name": alias, "collection_name": collection}
        actions.append({"create_alias": named})
    if actions:
        text = json.dumps({"actions": actions}).encode()
        _json("POST", "/collections/aliases", text, {"Content-Type": "application/json"})


def drop(collection: str) -> None:
    _json("DELETE", f"/collections/{quote(collection)}", absent=True)


def _json(
    method: str,
    path: str,
    body: bytes | Iterator[bytes] | None = None,
    headers: dict[str, str] | None = None,
    absent: bool = False,
) -> Any:
    connection, answer = _ask(method, path, body, headers, absent)
    text = answer.read()
    connection.close()
    return json.loads(text) if text else None


def _ask(
    method: str,
    path: str,
    body: bytes | Iterator[bytes] | None = None,
    headers: dict[str, str] | None = None,
    absent: bool = False,
) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    base = urlsplit(os.environ["QDRANT_URL"])
    kind = http.client.HTTPSConnection if base.scheme == "https" else http.client.HTTPConnection
    connection = kind(base.hostname or "", base.port, timeout=TIMEOUT_S)
    key = os.environ.get("QDRANT_API_KEY")
    given = {**(headers or {}), **({"api-key": key} if key else {})}
    connection.request(method, base.path.rstrip("/") + path, body, given)
    answer = connection.getresponse()
    if answer.status >= 400 and not (absent and answer.status == 404):
        said = answer.read(300).decode("utf-8", "replace")
        raise Refused(f"{method} {path.split('?')[0]} answered {answer.status}: {said}")
    return connection, answer


def main(arguments: list[str]) -> int:
    try:
        match arguments:
            case ["list"]:
                print(json.dumps(aliases()))
            case ["save", collection]:
                save(collection, sys.stdout.buffer)
            case ["load", alias, size]:
                print(json.dumps(load(alias, int(size), sys.stdin.buffer)))
            case ["point", alias, *collection]:
                point(alias, collection[0] if collection else None)
            case ["drop", collection]:
                drop(collection)
            case _:
                raise Refused(f"there is no {arguments}")
    except (OSError, http.client.HTTPException, Refused, KeyError, ValueError) as error:
        print(f"Qdrant: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
