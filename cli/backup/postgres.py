"""The databases of the stack's PostgreSQL, through its own container and its own tools."""

import re
from collections.abc import Callable

from cli.backup.archive import Reader, Writer
from cli.backup.manifest import Part
from cli.compose import Compose
from contracts.errors import BadRequest

SERVICE = "postgres"
USER = "postgres"  # by the socket inside the container, where it needs no password
NAME = re.compile(r"[a-z_][a-z0-9_]{0,40}")
ENCODING = re.compile(r"[A-Z][A-Z0-9_]{0,20}")
THEIRS = (
    "SELECT datname, pg_get_userbyid(datdba), pg_encoding_to_char(encoding) FROM pg_database WHERE"
    " NOT datistemplate AND datname <> 'postgres' AND datname !~ '_(restoring|replaced)$'"
    " ORDER BY datname"
)


def save(writer: Writer, compose: Compose) -> None:
    """Add a dump of each database, in pg_dump's custom format (compressed)."""
    for row in _query(compose, "postgres", THEIRS).splitlines():
        database, owner, encoding = row.split("|")
        words = ("exec", "-T", SERVICE, "pg_dump", "-U", USER, "-Fc", "--dbname", database)
        name, more = f"postgres/{database}.dump", {"owner": owner, "encoding": encoding}
        with writer.part(name, "database", database, more) as sink:
            compose.read(*words, into=sink)


def check(part: Part) -> None:
    owner, encoding = part.more.get("owner", ""), part.more.get("encoding", "")
    if not (NAME.fullmatch(part.of) and NAME.fullmatch(owner) and ENCODING.fullmatch(encoding)):
        raise BadRequest(
            "backup_damaged",
            f"{part.name} names the database {part.of!r} of {owner!r} in {encoding!r}."
            " Nothing was changed.",
            "Use another backup.",
        )


def restore(reader: Reader, part: Part, compose: Compose) -> Callable[[], None]:
    """Put the dump in the place of the database, which is kept under another name. Returns what
    puts it back. When the dump cannot be read, the database is as it was."""
    name, owner = part.of, part.more["owner"]
    coming, aside = f"{name}_restoring", f"{name}_replaced"
    _mend(compose, name, aside)
    _drop(compose, coming, aside)
    _query(
        compose,
        "postgres",
        f'CREATE DATABASE "{coming}" OWNER "{owner}" TEMPLATE template0'
        f" ENCODING '{part.more['encoding']}'",
    )
    # A dump holds the rights on what is in the database, not those on the database itself.
    _query(compose, "postgres", f'REVOKE ALL ON DATABASE "{coming}" FROM PUBLIC')
    try:
        _load(reader, part, compose, coming)
    except BaseException:  # boundary: half a database is of no use, whatever kept it so
        _drop(compose, coming)
        raise
    there = _there(compose, name)
    if there:
        _rename(compose, name, aside)
    try:
        _rename(compose, coming, name)
    except BaseException:  # boundary: as above; and the name must not stay without a database
        if there:
            _rename(compose, aside, name)
        raise

    def undo() -> None:
        _rename(compose, name, coming)
        if there:
            _rename(compose, aside, name)
        _drop(compose, coming)

    return undo


def settle(part: Part, compose: Compose) -> None:
    _drop(compose, f"{part.of}_replaced")


def _load(reader: Reader, part: Part, compose: Compose, database: str) -> None:
    words = ("exec", "-T", SERVICE, "pg_restore", "-U", USER, "--exit-on-error", "-d", database)
    with reader.open(part) as content:
        compose.feed(*words, source=content)


def _drop(compose: Compose, *databases: str) -> None:
    for name in databases:
        _query(compose, "postgres", f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _there(compose: Compose, database: str) -> bool:
    sql = f"SELECT 1 FROM pg_database WHERE datname = '{database}'"
    return _query(compose, "postgres", sql).strip() == "1"


def _mend(compose: Compose, name: str, aside: str) -> None:
    """A restore that was killed between two renames has left the database under its other name."""
    if _there(compose, aside) and not _there(compose, name):
        _rename(compose, aside, name)


def _rename(compose: Compose, old: str, new: str) -> None:
    _query(
        compose,
        "postgres",
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{old}'",
    )
    _query(compose, "postgres", f'ALTER DATABASE "{old}" RENAME TO "{new}"')


def _query(compose: Compose, database: str, sql: str) -> str:
    words = ("psql", "-U", USER, "-d", database, "-v", "ON_ERROR_STOP=1", "-qAtc", sql)
    return compose.call("exec", "-T", SERVICE, *words)


def version(compose: Compose) -> int | None:
    """The schema version of the stores, None before their first start."""
    there = "SELECT to_regclass('public.schema_versions') IS NOT NULL"
    if _query(compose, "variet", there).strip() != "t":
        return None
    return int(_query(compose, "variet", "SELECT max(version) FROM schema_versions"))
