"""The stores on a PostgreSQL server, for when DATABASE_URL is set.

Store and Journal share one database. What the Journal commits is on disk before the call returns;
the Store commits asynchronously, as SQLite's `synchronous=NORMAL` does. There is one write-ahead
log for both: what was committed before an entry of the journal survives whenever that entry does.

A connection may break between a COMMIT and its answer, and then nobody was told whether it was
done. Each write therefore carries a token of its own, or is keyed: it is sent once more, changes
nothing if it was done, and finds out by the token who did it.
"""
