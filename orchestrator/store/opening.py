"""Which stores hold the state: SQLite files in STATE_DIR, or the PostgreSQL of DATABASE_URL."""

from contracts.errors import SettingsError
from contracts.settings import Settings
from orchestrator.store.interface import Journal, Store
from orchestrator.store.journal import SqliteJournal
from orchestrator.store.sqlite import SqliteStore


async def open_stores(settings: Settings) -> tuple[Store, Journal]:
    """Raises SettingsError for a DATABASE_URL that cannot be used, StoreError for stores that
    cannot be opened. Each is to be closed by the caller."""
    if settings.database_url is not None:
        return await _open_postgres(settings.database_url.get_secret_value())
    store = SqliteStore(settings.state_dir / "variet.db")
    try:
        return store, SqliteJournal(settings.state_dir / "journal.db")
    except BaseException:  # boundary: the first is closed whatever keeps the second from opening
        await store.close()
        raise


async def _open_postgres(url: str) -> tuple[Store, Journal]:
    try:
        # Not at the top: an embedded start neither needs these packages nor waits for them.
        from orchestrator.store.postgres.opening import open_postgres
    except ImportError as error:
        raise SettingsError(
            "no_client",
            f"DATABASE_URL is set, and the package {error.name} is not installed.",
            "Install requirements-server.lock (pip install --no-deps --require-hashes"
            " -r requirements-server.lock), or leave DATABASE_URL out to use SQLite.",
        ) from error
    return await open_postgres(url)
