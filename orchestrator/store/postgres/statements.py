"""What the Store writes in one statement each, and so in one transaction and one round trip.

Whoever changes a run locks it first and its thread second; only then are messages numbered. Two
writers of one thread so wait for each other, and never the one for the other in turn. (A counter
in the thread gives the numbers: `max(seq)` would be read before that wait.)
"""

from functools import cache

LIVE = "('running', 'awaiting_approval')"
RUN_COLUMNS = (
    "id, thread_id, owner, status, request, created_at, updated_at, process, lease_until,"
    " stop_requested, recoveries, progress, response"
)
NEW_THREAD = (
    "INSERT INTO threads (id, owner, title, created_at, updated_at, said) VALUES"
    " (%(thread)s, %(thread_owner)s, %(title)s, %(thread_created)s, %(now)s,"
    " cardinality(%(bodies)s::text[])) RETURNING id, 0 AS said_before"
)
_NEW_RUN = (
    "INSERT INTO runs (id, thread_id, owner, status, request, created_at, updated_at, process,"
    " lease_until, progress, write) SELECT %(run)s, {thread}, %(owner)s, %(status)s::text,"
    " %(request)s, %(now)s, %(updated)s, %(process)s, %(lease)s, %(progress)s, %(write)s"
    " FROM {source} RETURNING thread_id"
)
RUN_ON_NEW_THREAD = _NEW_RUN.format(thread="place.id", source="place")
# The index says the same; asked beforehand, a busy thread is no error in PostgreSQL's log.
RUN_ON_THREAD = _NEW_RUN.format(
    thread="threads.id",
    source="threads WHERE threads.id = %(thread)s AND (%(status)s::text NOT IN"
    f" {LIVE} OR NOT EXISTS (SELECT FROM runs AS other WHERE other.thread_id = threads.id"
    f" AND other.status IN {LIVE}))",
)
START = (
    "UPDATE runs SET status = 'running', process = %(process)s, lease_until = %(lease)s,"
    " updated_at = %(now)s, write = %(write)s WHERE id = %(run)s AND status = 'queued'"
    " AND NOT EXISTS (SELECT FROM runs AS other WHERE other.thread_id = runs.thread_id"
    f" AND other.status IN {LIVE}) RETURNING thread_id"
)
RESUME = (
    "UPDATE runs SET status = 'running', process = %(process)s, lease_until = %(lease)s,"
    " updated_at = %(now)s, write = %(write)s WHERE id = %(run)s"
    " AND status = 'awaiting_approval' RETURNING thread_id"
)
SAVE = (
    "UPDATE runs SET progress = %(progress)s, write = %(write)s"
    " WHERE id = %(run)s AND write <> %(write)s::text RETURNING thread_id"
)
SETTLE = (
    "UPDATE runs SET status = %(status)s, progress = %(progress)s, response = %(response)s,"
    " updated_at = %(now)s, write = %(write)s"
    " WHERE id = %(run)s AND status = %(expected)s::text AND write <> %(write)s::text"
    " RETURNING thread_id"
)
EVENTS = (
    "INSERT INTO events (run_id, first, last, body)"
    " SELECT %(run)s, %(first)s::bigint, %(last)s::bigint, %(block)s"
)
# A block that was perhaps stored before, or the beginning of it: the longer one stands.
AGAIN = " ON CONFLICT (run_id, first) DO UPDATE SET last = excluded.last, body = excluded.body"
EXCHANGE = (
    "INSERT INTO exchanges (run_id, n, request, response, ms, write) SELECT %(run)s,"
    " (SELECT coalesce(max(n), 0) + 1 FROM exchanges WHERE run_id = %(run)s), %(request)s,"
    " %(response)s, %(ms)s, %(write)s WHERE NOT EXISTS"
    " (SELECT FROM exchanges WHERE run_id = %(run)s AND write = %(write)s::text)"
)
_NEXT = (
    "UPDATE threads SET said = said + cardinality(%(bodies)s::text[])"
    " FROM run WHERE threads.id = run.thread_id"
    " RETURNING threads.id, threads.said - cardinality(%(bodies)s::text[]) AS said_before"
)
_NEXT_TOUCHED = _NEXT.replace(" FROM run", ", updated_at = %(now)s FROM run")
_TELL = (
    "INSERT INTO messages (thread_id, seq, run_id, body)"
    " SELECT place.id, place.said_before + told.n, %(run)s, told.body"
    " FROM place, unnest(%(bodies)s::text[]) WITH ORDINALITY AS told (body, n)"
)


@cache
def opening() -> str:
    """A thread with its first run and messages."""
    return (
        f"WITH place AS ({NEW_THREAD}), run AS ({RUN_ON_NEW_THREAD}), told AS ({_TELL})"
        " SELECT thread_id FROM run"
    )


@cache
def step(run: str, bodies: bool, touch: bool, events: bool = False, again: bool = False) -> str:
    """A change of a run with its messages, its events and, if it touches it, its thread. One row
    if the run was changed, else none and nothing."""
    parts = [f"run AS ({run})"]
    if bodies or touch:
        parts.append(f"place AS ({_NEXT_TOUCHED if touch else _NEXT})")
    if bodies:
        parts.append(f"told AS ({_TELL})")
    if events:
        parts.append(f"logged AS ({EVENTS} FROM run{AGAIN if again else ''})")
    return f"WITH {', '.join(parts)} SELECT thread_id FROM run"
