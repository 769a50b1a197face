"""The stores on a PostgreSQL server, for when DATABASE_URL is set.

Store and Journal share one database. What the Journal commits is on disk before the call returns,
and so is each step of a run. (SQLite's `synchronous=NORMAL` may leave a step to the next sync: its
power cut takes this process along. A server of its own can die alone.)

A connection may break between a COMMIT and its answer, and then nobody was told whether it was
done. Each write therefore carries a token of its own, or is keyed: it is sent once more, changes
nothing if it was done, and finds out by the token who did it.
"""
