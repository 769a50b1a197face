"""What is refused at start, and what is waited for: addresses, tables, servers."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from contracts.errors import SettingsError, StoreError, StoreUnavailable
from contracts.settings import load_settings
from orchestrator.store.postgres.address import address_of
from orchestrator.store.postgres.faults import explained
from orchestrator.store.postgres.opening import open_postgres
from orchestrator.store.postgres.schema import MIGRATIONS
from tests.support import postgres
from tests.support.postgres_proxy import proxy

SECRET = "s3cr3t"
NOBODY = f"postgresql://variet:{SECRET}@127.0.0.1:1/variet"


async def opened(url: str, patience_s: float = 5.0) -> None:
    store, journal = await open_postgres(url, patience_s)
    await store.close()
    await journal.close()


# Addresses


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://variet:a@{SECRET}@postgres:5432/variet",
        f"postgresql://variet:a/{SECRET}@postgres:5432/variet",
        f"postgresql://variet:1/{SECRET}@postgres:5432/variet",
        f"postgresql://variet:{SECRET}%zz@postgres:5432/variet",
        f"postgresql://variet:{SECRET}@postgres:port/variet",
        f"postgresql://variet:{SECRET}@postgres:99999/variet",
        f"postgresql://variet:{SECRET}@[postgres:5432/variet",
        f"postgresql://variet@postgres:5432/variet?{SECRET}=1",
        f"host=postgres password={SECRET}",
    ],
)
def test_a_malformed_address_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(SettingsError, match="DATABASE_URL") as caught:
        address_of(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "postgresql://USER:PASSWORD@HOST:PORT/NAME" in caught.value.remedy


def test_an_address_of_another_kind_is_refused_without_being_quoted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"mysql://variet:{SECRET}@db/variet")
    with pytest.raises(SettingsError, match="DATABASE_URL") as caught:
        load_settings(_env_file=None)
    assert SECRET not in str(caught.value)


def test_an_address_is_told_without_its_password() -> None:
    address = address_of(f"postgresql://variet:{SECRET}%40x@postgres/name")
    assert address.place == "name at postgres:5432"
    assert address.password == f"{SECRET}@x"
    assert address.hide(f'"{SECRET}@x" or\n  {SECRET}%40x') == '"***" or ***'


def test_text_comes_in_utf_8_whatever_the_address_asks_for() -> None:
    address = address_of("postgresql://variet@postgres/name?client_encoding=LATIN1")
    assert conninfo_to_dict(address.conninfo)["client_encoding"] == "UTF8"


# Tables


def applied(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT version FROM schema_versions ORDER BY version")
        return [row[0] for row in found.fetchall()]


async def test_orchestrators_that_start_at_once_make_the_tables_once(database_url: str) -> None:
    await asyncio.gather(*(opened(database_url) for _ in range(5)))
    assert applied(database_url) == list(range(1, len(MIGRATIONS) + 1))
    await opened(database_url)
    assert applied(database_url) == list(range(1, len(MIGRATIONS) + 1))


async def test_tables_of_a_newer_version_are_refused(database_url: str) -> None:
    await opened(database_url)
    with psycopg.connect(database_url) as connection:
        connection.execute("INSERT INTO schema_versions (version) VALUES (999)")
    with pytest.raises(StoreError, match="schema version 999") as caught:
        await opened(database_url)
    assert caught.value.code == "store_version"
    assert f"knows {len(MIGRATIONS)}" in caught.value.message
    assert "Run the version of Variet that wrote it" in caught.value.remedy


async def test_a_database_of_something_else_is_left_as_it_is(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE TABLE runs (distance integer)")
    with pytest.raises(StoreError, match="tables of something else") as caught:
        await opened(database_url)
    assert caught.value.code == "store_foreign"
    with psycopg.connect(database_url) as connection:
        tables = connection.execute(
            "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'"
        ).fetchall()
    assert tables == [("runs",)]


async def test_a_database_that_may_only_be_read_is_refused(database_url: str) -> None:
    name = urlsplit(database_url).path.removeprefix("/")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    with pytest.raises(StoreError) as caught:
        await opened(database_url)
    assert caught.value.code == "store_unwritable"


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
async def test_a_database_that_is_not_in_utf_8_is_refused(
    own: postgres.Local, encoding: str
) -> None:
    own.start()
    own.server.do(f"CREATE DATABASE other TEMPLATE template0 LOCALE 'C' ENCODING '{encoding}'")
    with pytest.raises(StoreError, match=f"keeps text as {encoding}") as caught:
        await opened(own.server.of("other"))
    assert caught.value.code == "store_encoding"
    with psycopg.connect(own.server.of("other")) as connection:
        assert connection.execute("SELECT count(*) FROM pg_stat_user_tables").fetchall() == [(0,)]


# Servers


@pytest.fixture
def own() -> Iterator[postgres.Local]:
    try:
        with postgres.local() as server:
            yield server
    except postgres.NoServer as error:
        pytest.skip(str(error))


async def test_a_server_that_comes_later_is_waited_for(
    own: postgres.Local, caplog: pytest.LogCaptureFixture
) -> None:
    opening = asyncio.create_task(opened(own.server.url, 60.0))
    await asyncio.to_thread(own.start)
    await opening
    assert applied(own.server.url) == list(range(1, len(MIGRATIONS) + 1))


async def test_a_server_that_stays_away_is_told_without_the_password() -> None:
    with pytest.raises(StoreUnavailable, match=r"variet at 127\.0\.0\.1:1") as caught:
        await opened(NOBODY, 0.2)
    assert caught.value.code == "store_unreachable"
    assert "DATABASE_URL" in caught.value.remedy
    assert SECRET not in str(caught.value)


async def test_a_server_that_never_answers_is_told(database_url: str) -> None:
    async with proxy(database_url) as between:
        between.freeze()
        with pytest.raises(StoreUnavailable) as caught:
            await opened(between.url, 0.3)
        assert caught.value.code == "store_unreachable"


async def test_a_server_without_the_database_is_not_waited_for(
    postgres_server: postgres.Server,
) -> None:
    async with asyncio.timeout(30):
        with pytest.raises(StoreError, match="variet_none") as caught:
            await opened(postgres_server.of("variet_none"), 600.0)
    assert caught.value.code == "store_refused"


async def test_a_wrong_password_is_refused_at_once_and_not_told(own: postgres.Local) -> None:
    own.start()
    own.server.do(f"ALTER USER variet PASSWORD '{SECRET}'")
    own.stop()
    (own.folder / "data/pg_hba.conf").write_text("local all all scram-sha-256\n")
    own.start()
    right = own.server.url.replace("variet@", f"variet:{SECRET}@")
    await opened(right)
    async with asyncio.timeout(30):
        with pytest.raises(StoreError, match="password authentication failed") as caught:
            await opened(right.replace(SECRET, "wr0ng"), 600.0)
    assert caught.value.code == "store_refused"
    assert "wr0ng" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (psycopg.errors.DiskFull, "store_full", 500),
        (psycopg.errors.ReadOnlySqlTransaction, "store_unwritable", 500),
        (psycopg.errors.InsufficientPrivilege, "store_unwritable", 500),
        (psycopg.errors.DataCorrupted, "store_damaged", 500),
        (psycopg.errors.UndefinedTable, "store_damaged", 500),
        (psycopg.errors.LockNotAvailable, "store_busy", 503),
        (psycopg.errors.TooManyConnections, "store_busy", 503),
    ],
)
def test_a_fault_of_the_server_is_told_with_a_remedy(
    error: type[psycopg.Error], code: str, status: int
) -> None:
    fault = explained(address_of(NOBODY), error(f"it says {SECRET}"))
    assert fault is not None
    assert (fault.code, fault.status) == (code, status)
    assert "variet at 127.0.0.1:1" in fault.message
    assert SECRET not in str(fault)
    assert fault.remedy


def test_a_defect_of_ours_is_no_fault_of_the_server() -> None:
    assert explained(address_of(NOBODY), psycopg.errors.SyntaxError("x")) is None


# The process


def python(*arguments: str, state: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {"STATE_DIR": str(state), "OPENAI_COMPAT_URL": "http://127.0.0.1:1/v1", "PORT": "0"}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "VARIET_ENV_FILE": "/dev/null", **settings, **environment},
        timeout=100,
        check=False,
    )


def test_the_orchestrator_ends_with_the_reason(
    tmp_path: Path, postgres_server: postgres.Server
) -> None:
    url = postgres_server.of("variet_none")
    done = python("-m", "orchestrator", state=tmp_path, DATABASE_URL=url)
    assert done.returncode == 1
    assert "variet_none" in done.stderr
    assert "DATABASE_URL" in done.stderr
    assert "Traceback" not in done.stderr


WITHOUT_CLIENT = """
import asyncio, sys
sys.modules["psycopg"] = None
from contracts.errors import SettingsError
from contracts.settings import load_settings
from orchestrator.store.opening import open_stores
try:
    asyncio.run(open_stores(load_settings()))
except SettingsError as error:
    print(error.code, error)
"""
EMBEDDED = """
import sys
import orchestrator.serve
print(sorted({name.partition(".")[0] for name in sys.modules} & {"psycopg", "qdrant_client"}))
"""


def test_a_missing_client_is_told_with_the_lock_file_that_has_it(tmp_path: Path) -> None:
    done = python("-c", WITHOUT_CLIENT, state=tmp_path, DATABASE_URL=NOBODY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no_client DATABASE_URL is set, and the package psycopg")
    assert "requirements-server.lock" in done.stdout
    assert SECRET not in done.stdout


def test_an_embedded_start_imports_no_client(tmp_path: Path) -> None:
    done = python("-c", EMBEDDED, state=tmp_path)
    assert done.stdout == "[]\n", done.stderr
