"""The files that third-party servers read, by what those servers do with them."""

import base64
import hashlib
import hmac
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import psycopg
import pytest
import yaml

from contracts.settings import REPOSITORY
from tests.support import postgres

DATABASES = REPOSITORY / "services/postgres/databases.sql"
AWKWARD = {"variet": "it's $HOME", "langfuse": 'a"b\\c; --'}


def test_searxng_answers_in_json_and_refuses_no_program() -> None:
    settings = yaml.safe_load((REPOSITORY / "services/searxng/settings.yml").read_text("utf-8"))
    assert "json" in settings["search"]["formats"]
    assert settings["server"]["limiter"] is False
    assert settings["use_default_settings"] is True


def test_each_log_table_of_clickhouse_ends_or_is_not_kept() -> None:
    root = ElementTree.parse(REPOSITORY / "services/clickhouse/logs.xml").getroot()
    assert root.tag == "clickhouse"
    tables = [one for one in root if one.tag.endswith("_log")]
    kept = {one.tag for one in tables if one.get("remove") != "1"}
    # The server refuses to start where a table has both an engine, as that one has, and a TTL.
    assert kept == {"query_log", "part_log"}
    assert all(one.findtext("ttl", "").endswith("DELETE") for one in tables if one.tag in kept)
    assert root.find("listen_host") is None


@pytest.fixture
def own_server() -> Iterator[postgres.Local]:
    try:
        with postgres.local() as server:
            server.start()
            yield server
    except postgres.NoServer as error:
        pytest.skip(str(error))


def test_each_database_is_open_to_its_own_user_only(own_server: postgres.Local) -> None:
    at = f"host={own_server.folder} dbname=postgres"
    with psycopg.connect(f"{at} user=variet", autocommit=True) as first:
        first.execute("CREATE ROLE postgres SUPERUSER LOGIN PASSWORD 'initial'")
    with psycopg.connect(f"{at} user=postgres", autocommit=True) as admin:
        admin.execute("ALTER ROLE variet RENAME TO bootstrap")
        run_as_the_image_does(own_server.folder)
        rows = admin.execute("SELECT rolname, rolpassword FROM pg_authid").fetchall()
    stored = {str(name): password for name, password in rows}
    assert {name: matches(stored[name], word) for name, word in AWKWARD.items()} == {
        "variet": True,
        "langfuse": True,
    }
    assert stored["postgres"] is None
    for user in AWKWARD:
        with psycopg.connect(f"host={own_server.folder} dbname={user} user={user}") as own:
            own.execute("CREATE TABLE theirs (id int)")
            assert own.execute("SHOW server_encoding").fetchone() == ("UTF8",)
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(f"host={own_server.folder} dbname=variet user=langfuse")


def run_as_the_image_does(folder: Path) -> None:
    programs = postgres.programs()
    assert programs
    words = ("-v", "ON_ERROR_STOP=1", "--no-password", "--no-psqlrc", "-U", "postgres")
    subprocess.run(
        [programs / "psql", *words, "-h", folder, "-d", "postgres", "-f", DATABASES],
        env={
            "PATH": os.environ["PATH"],
            "POSTGRES_PASSWORD": AWKWARD["variet"],
            "LANGFUSE_POSTGRES_PASSWORD": AWKWARD["langfuse"],
        },
        check=True,
        capture_output=True,
        timeout=60,
    )


def matches(stored: str, password: str) -> bool:
    """Whether PostgreSQL stores that password, as SCRAM-SHA-256 (RFC 5802)."""
    _, rounds_and_salt, keys = stored.split("$")
    rounds, salt = rounds_and_salt.split(":")
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), int(rounds))
    client = hmac.digest(salted, b"Client Key", "sha256")
    return keys.split(":")[0] == base64.b64encode(hashlib.sha256(client).digest()).decode()
