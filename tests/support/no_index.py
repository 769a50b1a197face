"""An index that is down, for tests that need none."""

from collections.abc import Sequence
from typing import Any, NoReturn

from contracts.errors import Unavailable


class NoIndex:
    async def upsert(self, *args: Any) -> NoReturn:
        raise _down()

    async def delete(self, *args: Any) -> NoReturn:
        raise _down()

    async def sources(self, *args: Any) -> NoReturn:
        raise _down()

    async def search(self, *args: Any) -> NoReturn:
        raise _down()

    async def embed(self, texts: Sequence[str]) -> NoReturn:
        raise _down()

    async def stats(self, within: float = 0) -> NoReturn:
        raise _down()

    async def rebuild(self, *args: Any) -> NoReturn:
        raise _down()


def _down() -> Unavailable:
    return Unavailable("index_unavailable", "The index is down.", "Start it.")
