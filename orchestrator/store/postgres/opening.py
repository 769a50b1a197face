"""The stores as they are opened at start: the server waited for, the tables brought up to date."""

import asyncio
import logging

import psycopg

from contracts.errors import StoreError, StoreUnavailable
from orchestrator.store.postgres.address import ENCODING, Address, address_of
from orchestrator.store.postgres.connections import Connection, Connections
from orchestrator.store.postgres.faults import is_hopeless, is_lost, refused
from orchestrator.store.postgres.journal import PostgresJournal
from orchestrator.store.postgres.migrations import migrate
from orchestrator.store.postgres.store import PostgresStore

START_PATIENCE_S = 30.0  # after a reboot the containers start in any order
PAUSE_S = 0.5
STORE_CONNECTIONS = 8
JOURNAL_CONNECTIONS = 4

log = logging.getLogger(__name__)


async def open_postgres(
    url: str, patience_s: float = START_PATIENCE_S
) -> tuple[PostgresStore, PostgresJournal]:
    """Raises SettingsError for a malformed address, StoreError for a server that stays away for
    `patience_s`, that refuses us, whose database is not in UTF-8, or whose tables are of a newer
    version."""
    address = address_of(url)
    connection = await _arrive(address, patience_s)
    try:
        _require_encoding(connection, address)
        await migrate(connection, address)
    finally:
        await connection.close()
    durable = Connections(address, JOURNAL_CONNECTIONS, durable=True)
    store = PostgresStore(Connections(address, STORE_CONNECTIONS, durable=False), durable)
    return store, PostgresJournal(durable)


async def _arrive(address: Address, patience_s: float) -> Connection:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    said = False
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                return await psycopg.AsyncConnection.connect(address.conninfo, autocommit=True)
        except psycopg.OperationalError as error:
            if is_hopeless(error) or not is_lost(error):
                raise refused(address, error) from None
            last: Exception = error
        except TimeoutError as error:
            last = error
        if loop.time() + PAUSE_S >= deadline:
            raise _absent(address, last, patience_s) from None
        if not said:
            said = True
            log.warning("waiting for PostgreSQL (%s): %s", address.place, address.hide(last))
        await asyncio.sleep(PAUSE_S)


def _require_encoding(connection: Connection, address: Address) -> None:
    found = connection.info.parameter_status("server_encoding")
    if found != ENCODING:
        raise StoreError(
            "store_encoding",
            f"PostgreSQL ({address.place}) keeps text as {found}, not as {ENCODING}.",
            "Name another database in DATABASE_URL: CREATE DATABASE variet TEMPLATE template0"
            f" ENCODING '{ENCODING}'.",
        )


def _absent(address: Address, error: Exception, patience_s: float) -> StoreError:
    return StoreUnavailable(
        "store_unreachable",
        f"PostgreSQL ({address.place}) did not answer for {patience_s:g} s:"
        f" {address.hide(error) or 'no answer'}.",
        "Start it, or correct DATABASE_URL.",
    )
