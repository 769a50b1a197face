"""DATABASE_URL, taken apart once. No part of it that may hold the password gets into a message."""

from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from contracts.errors import SettingsError

SCHEMES = ("postgresql://", "postgres://")
HIDDEN = "***"
DEFAULTS = {
    "connect_timeout": "5",
    # Without these a cut cable is noticed after minutes.
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "tcp_user_timeout": "10000",
    "gssencmode": "disable",
}
# Whatever the address says: in another encoding psycopg gives bytes for text, or refuses some.
ENCODING = "UTF8"


@dataclass(frozen=True, slots=True)
class Address:
    """`place` is for messages: `variet at postgres:5432`."""

    conninfo: str
    place: str
    password: str

    def hide(self, text: object) -> str:
        """What libpq says, on one line and without the password."""
        said = " ".join(str(text).split())
        for secret in {self.password, quote(self.password, safe="")}:
            said = said.replace(secret, HIDDEN) if secret else said
        return said


def address_of(url: str) -> Address:
    """Raises SettingsError for what is no address of a PostgreSQL database."""
    try:
        given = {key: str(value) for key, value in conninfo_to_dict(url).items()}
        typed_at = urlsplit(url).netloc.count("@")
    except (psycopg.ProgrammingError, ValueError):
        raise _malformed() from None  # its text would quote the address
    host, port = given.get("host") or given.get("hostaddr") or "", given.get("port") or "5432"
    name = given.get("dbname") or given.get("user") or ""
    ports = port.split(",")
    # A password with an unescaped / or @ in it makes libpq take the rest for host, port or name.
    if not url.startswith(SCHEMES) or typed_at > 1 or "@" in host + name:
        raise _malformed()
    if not all(p.isdecimal() and 0 < int(p) < 65_536 for p in ports):
        raise _malformed()
    return Address(
        make_conninfo(**(DEFAULTS | given | {"client_encoding": ENCODING})),
        f"{name or 'the database'} at {host or 'this machine'}:{port}",
        given.get("password", ""),
    )


def _malformed() -> SettingsError:
    return SettingsError(
        "bad_settings",
        "DATABASE_URL is not the address of a PostgreSQL database.",
        "Write postgresql://USER:PASSWORD@HOST:PORT/NAME, with %XX for each of @ : / ? # % and"
        " spaces in the password.",
    )
