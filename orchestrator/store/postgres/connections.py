"""Connections to the database: made when needed, kept for the next, bounded in number and time.

A pool of our own, in place of psycopg_pool's, for the sake of what happens when the server goes
away: that one hands out each dead connection once and makes new ones in the background, ever more
seldom, while a request here has a few seconds in all to find a server that is back.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from orchestrator.store.postgres.address import Address
from orchestrator.store.postgres.faults import (
    all_taken,
    explained,
    is_hopeless,
    is_lost,
    is_rolled_back,
    refused,
    unreachable,
)
from orchestrator.store.postgres.uninterrupted import uninterrupted

PATIENCE_S = 4.0  # what a request waits at most
LOCK_TIMEOUT_MS = 3_000
PAUSE_S = 0.1
SETTINGS = (
    "SELECT set_config('synchronous_commit', %s, false),"
    " set_config('lock_timeout', %s, false), set_config('client_min_messages', 'error', false)"
)

T = TypeVar("T")
Values = Mapping[str, Any]
Row = tuple[Any, ...]
Connection = psycopg.AsyncConnection[Row]
# What is done on a connection. True: it was tried before, and may have been done then.
Work = Callable[[Connection, bool], Awaitable[T]]


class Connections:
    """At most `size` at once. `durable`: commits are on disk before they are answered.

    Raises StoreUnavailable when the server does not answer in time, StoreError for its faults;
    psycopg.IntegrityError and defects of ours pass through."""

    def __init__(
        self, address: Address, size: int, durable: bool, patience_s: float = PATIENCE_S
    ) -> None:
        self.address = address
        self.patience_s = patience_s
        self._size = size
        self._durable = durable
        self._free = asyncio.Semaphore(size)
        self._idle: list[Connection] = []
        self._reading: set[asyncio.Task[list[Row]]] = set()
        self._greeting: tuple[str, tuple[Any, ...]] | None = None
        self._generation = 0
        self._closed = False

    async def read(self, sql: str, values: Values | None = None) -> list[Row]:
        """The rows of a statement that changes nothing. A cancelled caller leaves at once."""

        async def fetch(connection: Connection, _again: bool) -> list[Row]:
            return await rows(connection, sql, values)

        task = asyncio.ensure_future(self._do(fetch, self.patience_s))
        self._reading.add(task)
        task.add_done_callback(self._has_read)
        return await asyncio.shield(task)

    async def write(self, work: Work[T], patience_s: float | None = None) -> T:
        """Carry out `work` to its end, whoever is cancelled meanwhile. It is called again after a
        break of the connection, then with True."""
        return await uninterrupted(self._do(work, patience_s or self.patience_s))

    async def change(
        self, sql: str, values: Values | None = None, patience_s: float | None = None
    ) -> list[Row]:
        """A statement that may be carried out twice without harm; the rows that it returns."""

        async def fetch(connection: Connection, _again: bool) -> list[Row]:
            return await rows(connection, sql, values)

        return await self.write(fetch, patience_s)

    async def greet(self, sql: str, values: tuple[Any, ...]) -> None:
        """From now on each connection begins with this; those that did not are given up."""
        self._greeting = sql, values
        await self._give_up_idle()

    async def close(self) -> None:
        self._closed = True
        if self._reading:
            await asyncio.wait(self._reading)
        await self._give_up_idle()

    def _has_read(self, task: asyncio.Task[list[Row]]) -> None:
        self._reading.discard(task)
        if not task.cancelled():
            task.exception()  # nobody else asks for it when the caller has left

    async def _do(self, work: Work[T], patience_s: float) -> T:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience_s
        again = sent = False
        while True:
            try:
                async with self._connection(deadline) as connection:
                    sent = True
                    return await work(connection, again)
            except psycopg.IntegrityError:
                raise
            except (psycopg.Error, OSError) as error:
                await self._judge(error, deadline, patience_s)
                if sent and not (isinstance(error, psycopg.Error) and is_rolled_back(error)):
                    again = True
                pause = 0.0 if sent else PAUSE_S
                sent = False
            await asyncio.sleep(pause)

    async def _judge(
        self, error: psycopg.Error | OSError, deadline: float, patience_s: float
    ) -> None:
        """Return if it is worth another try, else raise what the caller is told."""
        late = asyncio.get_running_loop().time() + PAUSE_S >= deadline
        if not isinstance(error, psycopg.Error) or is_lost(error):
            await self._give_up_idle()  # what broke one connection has broken the others
            if late:
                raise unreachable(self.address, error, patience_s) from error
            return
        if is_rolled_back(error) and not late:
            return
        fault = explained(self.address, error)
        if fault is None:
            raise error
        raise fault from error

    @asynccontextmanager
    async def _connection(self, deadline: float) -> AsyncIterator[Connection]:
        """One to work with until the deadline; then it is cut off, so that nobody hangs on it."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._free.acquire()
        except TimeoutError:
            raise all_taken(self.address, self._size) from None
        try:
            generation = self._generation
            connection = self._idle.pop() if self._idle else await self._open(deadline)
            watch = asyncio.get_running_loop().call_at(deadline, _cut, connection)
            try:
                yield connection
            finally:
                watch.cancel()
                clean = connection.pgconn.transaction_status == TransactionStatus.IDLE
                if clean and generation == self._generation and not self._closed:
                    self._idle.append(connection)
                else:
                    await connection.close()
        finally:
            self._free.release()

    async def _open(self, deadline: float) -> Connection:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._connect()
        except TimeoutError as error:
            raise psycopg.OperationalError("no connection could be made") from error
        except psycopg.OperationalError as error:
            if is_hopeless(error):
                raise refused(self.address, error) from error
            raise

    async def _connect(self) -> Connection:
        connection = await psycopg.AsyncConnection.connect(self.address.conninfo, autocommit=True)
        try:
            how = "on" if self._durable else "off"
            await connection.execute(SETTINGS, (how, str(LOCK_TIMEOUT_MS)))
            if self._greeting is not None:
                await connection.execute(*self._greeting)
        except BaseException:  # boundary: nothing is left open, whatever broke it
            await connection.close()
            raise
        return connection

    async def _give_up_idle(self) -> None:
        self._generation += 1
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()


async def rows(connection: Connection, sql: str, values: Values | None = None) -> list[Row]:
    """The rows of one statement, which is a transaction of its own."""
    async with connection.cursor(binary=True) as cursor:
        await cursor.execute(sql.encode(), _storable(values))
        return await cursor.fetchall() if cursor.description else []


def _storable(values: Values | None) -> Values | None:
    """PostgreSQL's texts hold every character but NUL, and an id or a title may come with one."""
    if values is None:
        return None
    return {
        key: value.replace("\0", "\ufffd") if isinstance(value, str) else value
        for key, value in values.items()
    }


def _cut(connection: Connection) -> None:
    # Not close(): whoever waits for this socket in the event loop is to be woken with an error.
    with contextlib.suppress(OSError, psycopg.Error):
        cut = socket.socket(fileno=os.dup(connection.fileno()))
        with contextlib.closing(cut):
            cut.shutdown(socket.SHUT_RDWR)
