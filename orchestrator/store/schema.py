"""The tables of the embedded Store."""

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE threads (
  id TEXT PRIMARY KEY, owner TEXT NOT NULL, title TEXT NOT NULL,
  created_at REAL NOT NULL, updated_at REAL NOT NULL
) STRICT;
CREATE INDEX threads_owner ON threads (owner, id);
CREATE TABLE messages (
  thread_id TEXT NOT NULL REFERENCES threads ON DELETE CASCADE,
  seq INTEGER NOT NULL, run_id TEXT NOT NULL, body TEXT NOT NULL,
  PRIMARY KEY (thread_id, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE runs (
  id TEXT PRIMARY KEY, thread_id TEXT NOT NULL REFERENCES threads ON DELETE CASCADE,
  owner TEXT NOT NULL, status TEXT NOT NULL, request TEXT NOT NULL,
  created_at REAL NOT NULL, updated_at REAL NOT NULL,
  process TEXT NOT NULL, lease_until REAL NOT NULL,
  stop_requested INTEGER NOT NULL DEFAULT 0, recoveries INTEGER NOT NULL DEFAULT 0,
  progress TEXT NOT NULL, response TEXT
) STRICT;
CREATE INDEX runs_owner ON runs (owner, id);
CREATE INDEX runs_thread ON runs (thread_id);
CREATE UNIQUE INDEX one_live_run_per_thread ON runs (thread_id)
  WHERE status IN ('running', 'awaiting_approval');
CREATE INDEX runs_waiting ON runs (thread_id, id) WHERE status = 'queued';
CREATE INDEX runs_live ON runs (process) WHERE status = 'running';
CREATE TABLE events (
  run_id TEXT NOT NULL REFERENCES runs ON DELETE CASCADE,
  first INTEGER NOT NULL, last INTEGER NOT NULL, body BLOB NOT NULL,
  PRIMARY KEY (run_id, first)
) STRICT, WITHOUT ROWID;
CREATE TABLE exchanges (
  run_id TEXT NOT NULL REFERENCES runs ON DELETE CASCADE,
  n INTEGER NOT NULL, request BLOB NOT NULL, response BLOB NOT NULL, ms REAL NOT NULL,
  PRIMARY KEY (run_id, n)
) STRICT;
"""
