"""A PostgreSQL server for tests: a given one, a local one, or one in a container.

VARIET_TEST_DATABASE_URL names a given one, on which databases are made and dropped. A local one
needs PostgreSQL's programs; a container needs a Docker engine that has the image or can pull it.
"""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import yaml

GIVEN = "VARIET_TEST_DATABASE_URL"
PROGRAMS = Path("/usr/lib/postgresql")
IMAGES = Path(__file__).resolve().parents[2] / "services/images.yaml"
IMAGE = "postgres:17.11"
USERS = ("postgres", "nobody")
START_TIMEOUT_S = 60


class NoServer(Exception):
    """Says what is missing."""


@dataclass(frozen=True)
class Server:
    """`url` is that of a database from which others can be made."""

    url: str

    def of(self, name: str) -> str:
        return urlsplit(self.url)._replace(path=f"/{name}").geturl()

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of an empty database, dropped in the end."""
        name = f"variet_test_{secrets.token_hex(4)}"
        self.do(f'CREATE DATABASE "{name}"')
        try:
            yield self.of(name)
        finally:
            self.do(f'DROP DATABASE "{name}" WITH (FORCE)')

    def do(self, sql: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.encode())


@contextmanager
def server() -> Iterator[Server]:
    """Raises NoServer when there is none to be had."""
    given = os.environ.get(GIVEN)
    if given:
        yield Server(given)
    elif programs() is not None:
        with local() as own:
            own.start()
            yield own.server
    else:
        with _container() as contained:
            yield contained


def programs() -> Path | None:
    """The folder of PostgreSQL's programs."""
    found = shutil.which("initdb")
    if found and shutil.which("pg_ctl", path=str(Path(found).parent)):
        return Path(found).resolve().parent
    folders = sorted(PROGRAMS.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return folders[-1].parent if folders else None


@dataclass(frozen=True)
class Local:
    """A server of our own on a socket in `folder`, to be started, stopped and killed."""

    folder: Path

    @property
    def server(self) -> Server:
        return Server(f"postgresql://variet@/postgres?host={self.folder}")

    def start(self) -> None:
        options = f"-k {self.folder} -c listen_addresses= -c fsync=off -c full_page_writes=off"
        self._control("start", "-w", "-l", str(self.folder / "log"), "-o", options)

    def stop(self) -> None:
        self._control("stop", "-w", "-m", "fast")

    def kill(self) -> None:
        """As a crash: nothing is written down any more, and every connection breaks."""
        self._control("stop", "-w", "-m", "immediate")

    def _control(self, *arguments: str) -> None:
        _run(self.folder, "pg_ctl", "-D", str(self.folder / "data"), *arguments)


@contextmanager
def local() -> Iterator[Local]:
    """A server that is initialized but not started; stopped in the end. Raises NoServer."""
    if programs() is None:
        raise NoServer(_missing("no PostgreSQL programs were found"))
    folder = Path(tempfile.mkdtemp(prefix="variet-pg-"))
    own = Local(folder)
    try:
        if os.getuid() == 0:  # PostgreSQL refuses to run as root
            shutil.chown(folder, _user())
        _run(
            folder, "initdb", "-D", str(folder / "data"), "-U", "variet", "--no-sync",
            "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8",
        )  # fmt: skip
        yield own
    finally:
        with suppress(subprocess.CalledProcessError):
            own.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _run(folder: Path, program: str, *arguments: str) -> None:
    found = programs()
    assert found is not None
    user: list[str] = []
    if os.getuid() == 0:
        entry = pwd.getpwnam(_user())
        ids = [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
        user = ["setpriv", *ids]
    subprocess.run(
        [*user, str(found / program), *arguments],
        check=True,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=START_TIMEOUT_S,
    )


def _user() -> str:
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in USERS if name in known)


@contextmanager
def _container() -> Iterator[Server]:
    try:
        import docker  # type: ignore[import-untyped]
        from testcontainers.community.postgres import PostgresContainer
        from testcontainers.core.config import testcontainers_config
    except ImportError as error:
        raise NoServer(_missing(f"testcontainers is not installed: {error.name}")) from error
    testcontainers_config.ryuk_disabled = True  # an image more, to remove what we remove
    try:
        container = PostgresContainer(_image(), username="variet", password="t", driver=None)
        container.start()
    except docker.errors.DockerException as error:
        raise NoServer(_missing(f"Docker: {str(error).splitlines()[0]}")) from error
    try:
        yield Server(container.get_connection_url())
    finally:
        container.stop()


def _image() -> str:
    if IMAGES.is_file():
        services = yaml.safe_load(IMAGES.read_text("utf-8"))["services"]
        return str(services.get("postgres", {}).get("image", IMAGE))
    return IMAGE


def _missing(why: str) -> str:
    return (
        f"no PostgreSQL server: {GIVEN} is not set, initdb and pg_ctl are not installed, and no"
        f" Docker engine gives one ({why})"
    )
