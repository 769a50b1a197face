"""Our collections in the stack's Qdrant, as snapshots. A collection's alias is its lasting name."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from cli.backup import qdrant_calls
from cli.backup.archive import Reader, Writer
from cli.backup.manifest import Part
from cli.compose import Compose
from contracts.errors import BadRequest

ALIAS = re.compile(r"variet-[a-z0-9][a-z0-9_-]{0,63}")


def save(writer: Writer, compose: Compose) -> None:
    for alias, collection in json.loads(compose.call(*_words("list"))).items():
        with writer.part(f"qdrant/{alias}.snapshot", "collection", alias) as sink:
            compose.read(*_words("save", collection), into=sink)


def check(part: Part) -> None:
    if not ALIAS.fullmatch(part.of):
        raise BadRequest(
            "backup_damaged",
            f"{part.name} names the collection {part.of!r}. Nothing was changed.",
            "Use another backup.",
        )


class Restored:
    """A collection that has taken over its alias; the former one is there until `settle`."""

    def __init__(self, compose: Compose, alias: str, new: str, old: str | None) -> None:
        self._call: Callable[..., str] = compose.call
        self._alias, self._new, self._old = alias, new, old

    def settle(self) -> None:
        if self._old:
            self._call(*_words("drop", self._old))

    def undo(self) -> None:
        self._call(*_words("point", self._alias, *([self._old] if self._old else [])))
        self._call(*_words("drop", self._new))


def restore(reader: Reader, part: Part, compose: Compose) -> Restored:
    with reader.open(part) as content:
        told = json.loads(compose.feed(*_words("load", part.of, str(part.bytes)), source=content))
    return Restored(compose, part.of, told["new"], told["old"])


def _words(*arguments: str) -> list[str]:
    source = Path(qdrant_calls.__file__).read_text(encoding="utf-8")
    run = ("run", "--rm", "--no-deps", "-T", "--entrypoint", "python")
    return [*run, "orchestrator", "-c", source, *arguments]
