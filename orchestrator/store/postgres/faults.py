"""What goes wrong with the database, in words. Defects of ours stay as they are."""

import psycopg

from contracts.errors import StoreError, StoreUnavailable
from orchestrator.store.postgres.address import Address

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_ENDED = ("08", "57P")  # connection exceptions; the server shuts down, has crashed or starts up
_AGAIN = ("40",)  # rolled back for somebody else's sake: deadlock, serialization
_BUSY = ("55P03", "57014", "53300", "53200")
_FULL = ("53100",)
_UNWRITABLE = ("42501", "25006")
_DAMAGED = ("58", "XX", "42P01", "42703", "42883")
# libpq gives no code for a refused connection, only the server's words.
_HOPELESS = ("password authentication failed", "pg_hba.conf", "does not exist", "no password")


def is_lost(error: psycopg.Error) -> bool:
    """The connection is gone: whether its last statement was carried out is not known."""
    if isinstance(error, psycopg.OperationalError):
        return error.sqlstate is None or error.sqlstate.startswith(_ENDED)
    return False


def is_rolled_back(error: psycopg.Error) -> bool:
    """Nothing was done, and the same again may succeed."""
    return bool(error.sqlstate and error.sqlstate.startswith(_AGAIN))


def is_hopeless(error: psycopg.Error) -> bool:
    """The server refuses us, and will go on to."""
    return any(words in str(error) for words in _HOPELESS)


def unreachable(address: Address, error: BaseException | None, within_s: float) -> StoreError:
    why = f": {address.hide(error)}" if error is not None and str(error) else ""
    return StoreUnavailable(
        "store_unreachable",
        f"PostgreSQL ({address.place}) does not answer within {within_s:g} s{why}.",
        "Start it, or correct DATABASE_URL; then look whether what you asked was done.",
    )


def refused(address: Address, error: psycopg.Error) -> StoreError:
    return StoreError(
        "store_refused",
        f"PostgreSQL ({address.place}) refuses the connection: {address.hide(error)}.",
        "Correct user, password and name in DATABASE_URL. In the stack it holds POSTGRES_PASSWORD,"
        " which has to be the one of when PostgreSQL's volume was made (docs/operations.md).",
    )


def all_taken(address: Address, size: int) -> StoreError:
    return StoreUnavailable(
        "store_busy",
        f"All {size} connections to PostgreSQL ({address.place}) are waiting for it.",
        "Ask again in a moment; if it stays so, see PostgreSQL's log.",
    )


def explained(address: Address, error: psycopg.Error) -> StoreError | None:
    """The StoreError for a fault of the database, None for any other."""
    state, text = error.sqlstate or "", address.hide(error)
    place = f"PostgreSQL ({address.place})"
    if state.startswith(_BUSY):
        return StoreUnavailable("store_busy", f"{place} is busy: {text}.", "Ask again in a moment.")
    if state.startswith(_FULL):
        return StoreError("store_full", f"{place} cannot write: {text}.", "Free space on its disk.")
    if state.startswith(_UNWRITABLE):
        return StoreError(
            "store_unwritable",
            f"{place} does not let us write: {text}.",
            "Let the user of DATABASE_URL own the database, and write to the primary.",
        )
    if state.startswith(_DAMAGED):
        return StoreError(
            "store_damaged", f"{place} is damaged: {text}.", "Restore it from a backup."
        )
    return None
