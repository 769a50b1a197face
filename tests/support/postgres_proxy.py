"""A proxy before PostgreSQL that breaks connections at chosen moments of the conversation."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import Enum
from urllib.parse import parse_qs, urlsplit

READY = re.compile(rb"Z\x00\x00\x00\x05[ITE]$")


class Cut(Enum):
    """When a connection breaks, seen from a statement."""

    BEFORE = "before it arrives"
    AFTER = "after it was committed, before the answer arrives"


class Proxy:
    """Listens on a socket of its own, with `url` in place of the server's."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        query = parse_qs(parts.query)
        self._server_host = query["host"][0] if "host" in query else str(parts.hostname)
        self._server_port = parts.port or 5432
        self.port = 0
        self._user, self._password = parts.username, parts.password
        self._name = parts.path
        self._orders: list[tuple[bytes, Cut]] = []
        self._open: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.refusing = False
        self.refuse_after_cut = False
        self.cuts = 0

    @property
    def url(self) -> str:
        user = self._user if self._password is None else f"{self._user}:{self._password}"
        return f"postgresql://{user}@127.0.0.1:{self.port}{self._name}"

    def cut(self, statement: str, when: Cut, stay_away: bool = False) -> None:
        """Break the next connection that sends this text, and refuse new ones if told so."""
        self._orders.append((statement.encode(), when))
        self.refuse_after_cut = stay_away

    def break_all(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    def freeze(self) -> None:
        """Pass on nothing, as a server does that hangs or a cable that is cut."""
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        try:
            if self._server_host.startswith("/"):
                path = f"{self._server_host}/.s.PGSQL.{self._server_port}"
                upstream = await asyncio.open_unix_connection(path)
            else:
                upstream = await asyncio.open_connection(self._server_host, self._server_port)
        except OSError:
            writer.transport.abort()
            return
        pair = _Pair(self, reader, writer, *upstream)
        self._open.update((writer, upstream[1]))
        serving = asyncio.current_task()
        assert serving is not None
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        try:
            await pair.pass_on()
        finally:
            for one in (writer, upstream[1]):
                self._open.discard(one)
                one.transport.abort()

    async def close(self) -> None:
        self.thaw()
        self.break_all()
        if self._serving:
            await asyncio.wait(self._serving)

    async def flowing(self) -> None:
        await self._flowing.wait()

    def order_for(self, data: bytes) -> Cut | None:
        for order in self._orders:
            if order[0] in data:
                self._orders.remove(order)
                self.cuts += 1
                self.refusing = self.refuse_after_cut
                return order[1]
        return None


class _Pair:
    def __init__(
        self,
        proxy: Proxy,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._client, self._to_client = client, to_client
        self._server, self._to_server = server, to_server
        self._withheld = False

    async def pass_on(self) -> None:
        ways = {
            asyncio.ensure_future(self._requests()),
            asyncio.ensure_future(self._answers()),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _requests(self) -> None:
        with suppress(ConnectionError):
            while data := await self._client.read(65_536):
                await self._proxy.flowing()
                cut = self._proxy.order_for(data)
                if cut is Cut.BEFORE:
                    return
                self._withheld = self._withheld or cut is Cut.AFTER
                self._to_server.write(data)
                await self._to_server.drain()

    async def _answers(self) -> None:
        answer = b""
        with suppress(ConnectionError):
            while data := await self._server.read(65_536):
                await self._proxy.flowing()
                if self._withheld:
                    answer = (answer + data)[-6:]
                    if READY.search(answer):
                        return
                    continue
                self._to_client.write(data)
                await self._to_client.drain()


@asynccontextmanager
async def proxy(upstream: str) -> AsyncIterator[Proxy]:
    between = Proxy(upstream)
    server = await asyncio.start_server(between.serve, "127.0.0.1", 0)
    between.port = server.sockets[0].getsockname()[1]
    try:
        yield between
    finally:
        server.close()
        await between.close()
        await server.wait_closed()
