"""The collections on a Qdrant server: their names, their making and their replacement."""

import asyncio
import contextlib
import logging
import secrets
from typing import Any

from pydantic import ValidationError
from qdrant_client import models

from contracts.errors import Conflict, StoreError
from contracts.knowledge import CollectionStats
from orchestrator.knowledge.qdrant.collection import Note, QdrantCollection, make
from orchestrator.knowledge.qdrant.server import GONE, WRITE_TIMEOUT_S, Server
from orchestrator.knowledge.vector_store import Collection

PREFIX = "variet-"

log = logging.getLogger("variet.index")


class QdrantStore:
    """Collections on the server at `url`."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self._server = Server(url, key)
        self._client = self._server.client
        self._found: dict[str, QdrantCollection] = {}
        self._opening = asyncio.Lock()
        self._opened = False

    async def find(self, name: str) -> Collection | None:
        await self._open()
        if name not in self._found:
            metadata = await self._metadata(_alias(name))
            if metadata is None:
                return None
            note = _note(metadata)
            if note is None:
                raise Conflict(
                    "foreign_collection",
                    f"The collection {_alias(name)} on QDRANT_URL={self._server.url} was not made"
                    " by Variet.",
                    f"Rename it: names that start with {PREFIX} are Variet's.",
                )
            self._found[name] = self._collection(_alias(name), note)
        return self._found[name]

    async def create(self, name: str, model: str, dimension: int) -> Collection:
        await self._open()
        physical, note = await self._make(name, model, dimension)
        await self._publish(name, physical)
        self._found[name] = self._collection(_alias(name), note)
        return self._found[name]

    async def begin(self, name: str, model: str, dimension: int) -> Collection:
        await self._open()
        # A rebuild that failed may have left one.
        await self._mend(name)
        physical, note = await self._make(name, model, dimension)
        return self._collection(physical, note)

    async def replace(self, name: str, new: Collection) -> None:
        assert isinstance(new, QdrantCollection)
        old = (await self._aliases()).get(_alias(name))
        if old:
            await self._annotate(old, replaced_by=new.at)
        await self._publish(name, new.at)
        self._found.pop(name, None)
        if old:
            await self._server.call(self._client.delete_collection(old, timeout=WRITE_TIMEOUT_S))

    async def stats(self, within: float) -> dict[str, CollectionStats]:
        try:
            async with asyncio.timeout(within):
                return await self._stats()
        except TimeoutError as error:
            raise self._server.silent(within) from error

    async def close(self) -> None:
        await self._server.close()

    async def _stats(self) -> dict[str, CollectionStats]:
        await self._open()
        names = [alias.removeprefix(PREFIX) for alias in await self._aliases()]
        # Anew: someone may have restored or removed one.
        self._found.clear()
        stats = {}
        for name in names:
            # One of someone else's is refused when it is asked for.
            with contextlib.suppress(Conflict):
                if held := await self.find(name):
                    stats[name] = CollectionStats(
                        chunks=await held.count(), model=held.model, dimension=held.dimension
                    )
        return stats

    async def _open(self) -> None:
        """Once: look whether the server can do what is asked of it, and mend."""
        async with self._opening:
            if self._opened:
                return
            await self._server.require_release()
            await self._mend()
            self._opened = True

    async def _mend(self, only: str | None = None) -> None:
        """Finish or undo what a crash interrupted, in all collections or one."""
        aliases = await self._aliases()
        listed = await self._server.call(self._client.get_collections())
        for physical in sorted(item.name for item in listed.collections):
            if not physical.startswith(PREFIX):
                continue
            note = _note(await self._metadata(physical) or {})
            if note is None or (only and note.collection != only):
                continue
            current = aliases.get(_alias(note.collection))
            if current == physical:
                if note.state == "building":
                    await self._annotate(physical, state="ready")
            elif note.state == "building" or (current and note.replaced_by == current):
                log.warning("removing %s, which a crash left behind", physical)
                await self._server.call(
                    self._client.delete_collection(physical, timeout=WRITE_TIMEOUT_S)
                )
            elif current is None:
                # A snapshot does not hold the alias.
                log.warning("taking %s for the collection %s", physical, note.collection)
                await self._publish(note.collection, physical)
                aliases[_alias(note.collection)] = physical
            else:
                log.warning("%s is not used: %s is %s", physical, _alias(note.collection), current)

    async def _make(self, name: str, model: str, dimension: int) -> tuple[str, Note]:
        at = f"{_alias(name)}.{secrets.token_hex(4)}"
        note = Note(collection=name, model=model, dimension=dimension, state="building")
        await make(self._server, at, note)
        return at, note

    async def _publish(self, name: str, physical: str) -> None:
        """Let the name mean this collection from now on."""
        alias = _alias(name)
        move: list[models.AliasOperations] = []
        if alias in await self._aliases():
            gone = models.DeleteAlias(alias_name=alias)
            move.append(models.DeleteAliasOperation(delete_alias=gone))
        made = models.CreateAlias(collection_name=physical, alias_name=alias)
        move.append(models.CreateAliasOperation(create_alias=made))
        await self._server.call(
            self._client.update_collection_aliases(move, timeout=WRITE_TIMEOUT_S)
        )
        await self._annotate(physical, state="ready")

    async def _annotate(self, physical: str, **changed: str) -> None:
        await self._server.call(
            self._client.update_collection(physical, metadata=changed, timeout=WRITE_TIMEOUT_S)
        )

    async def _aliases(self) -> dict[str, str]:
        """Ours, with the collections that they mean."""
        listed = await self._server.call(self._client.get_aliases())
        return {
            item.alias_name: item.collection_name
            for item in listed.aliases
            if item.alias_name.startswith(PREFIX)
        }

    async def _metadata(self, at: str) -> dict[str, Any] | None:
        """Of a collection, or of the one that an alias means; None if there is none."""
        try:
            info = await self._server.call(self._client.get_collection(at))
        except StoreError as error:
            if error.code != GONE:
                raise
            return None
        return info.config.metadata or {}

    def _collection(self, at: str, note: Note) -> QdrantCollection:
        def forget() -> None:
            self._found.pop(note.collection, None)

        return QdrantCollection(self._server, at, note, forget)


def _alias(name: str) -> str:
    return f"{PREFIX}{name}"


def _note(metadata: dict[str, Any]) -> Note | None:
    """What a collection was built with; None if it is not ours."""
    try:
        return Note.model_validate(metadata)
    except ValidationError:
        return None
