"""The tables are brought up to date at start, all of the way or not at all."""

import psycopg

from contracts.errors import StoreError
from orchestrator.store.postgres.address import Address
from orchestrator.store.postgres.connections import Connection
from orchestrator.store.postgres.faults import explained
from orchestrator.store.postgres.schema import MIGRATIONS, SCHEMA_VERSION

LOCK = 0x56415249_4554  # "VARIET": two orchestrators that start at once migrate one by one


async def migrate(connection: Connection, address: Address) -> None:
    """Bring the database to the newest version, all of the way or not at all. Raises StoreError
    for a newer one, and for a database that is not ours to change."""
    try:
        async with connection.transaction():
            await _migrate(connection, address)
    except (psycopg.errors.DuplicateTable, psycopg.errors.DuplicateObject) as error:
        raise StoreError(
            "store_foreign",
            f"PostgreSQL ({address.place}) holds tables of something else: {address.hide(error)}.",
            "Name an empty database in DATABASE_URL.",
        ) from error
    except psycopg.Error as error:
        fault = explained(address, error)
        if fault is None:
            raise
        raise fault from error


async def _migrate(connection: Connection, address: Address) -> None:
    await connection.execute("SET LOCAL lock_timeout = 0")
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_versions"
        " (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    cursor = await connection.execute("SELECT coalesce(max(version), 0) FROM schema_versions")
    found = (await cursor.fetchone() or (0,))[0]
    if found > SCHEMA_VERSION:
        raise StoreError(
            "store_version",
            f"PostgreSQL ({address.place}) has schema version {found}, this program knows"
            f" {SCHEMA_VERSION}.",
            "Run the version of Variet that wrote it, or name another database in DATABASE_URL.",
        )
    for version, sql in enumerate(MIGRATIONS[found:], found + 1):
        await connection.execute(sql.encode())
        await connection.execute("INSERT INTO schema_versions (version) VALUES (%s)", (version,))
