"""The tables, version by version. A migration that was released is never changed again.

It imports no driver: a backup has to know the version where there is none."""

# Ids are compared byte by byte, whatever the database's collation. JSON is text, as it came: jsonb
# would order its keys anew and refuse "\u0000". `said` numbers a thread's messages, `write` is the
# token of the last write, by which it is recognized when its answer was lost.
_FIRST = """
CREATE TABLE threads (
  id text COLLATE "C" PRIMARY KEY, owner text NOT NULL, title text NOT NULL,
  created_at double precision NOT NULL, updated_at double precision NOT NULL,
  said integer NOT NULL DEFAULT 0
);
CREATE INDEX threads_owner ON threads (owner, id);
CREATE TABLE messages (
  thread_id text COLLATE "C" NOT NULL REFERENCES threads ON DELETE CASCADE,
  seq integer NOT NULL, run_id text COLLATE "C" NOT NULL, body text NOT NULL,
  PRIMARY KEY (thread_id, seq)
);
CREATE TABLE runs (
  id text COLLATE "C" PRIMARY KEY,
  thread_id text COLLATE "C" NOT NULL REFERENCES threads ON DELETE CASCADE,
  owner text NOT NULL, status text NOT NULL, request text NOT NULL,
  created_at double precision NOT NULL, updated_at double precision NOT NULL,
  process text NOT NULL, lease_until double precision NOT NULL,
  stop_requested boolean NOT NULL DEFAULT false, recoveries integer NOT NULL DEFAULT 0,
  progress text NOT NULL, response text, write text NOT NULL
);
CREATE INDEX runs_owner ON runs (owner, id);
CREATE INDEX runs_thread ON runs (thread_id);
CREATE UNIQUE INDEX one_live_run_per_thread ON runs (thread_id)
  WHERE status IN ('running', 'awaiting_approval');
CREATE INDEX runs_waiting ON runs (thread_id, id) WHERE status = 'queued';
CREATE INDEX runs_live ON runs (process) WHERE status = 'running';
CREATE INDEX runs_resting ON runs (id) WHERE status = 'awaiting_approval';
CREATE TABLE events (
  run_id text COLLATE "C" NOT NULL REFERENCES runs ON DELETE CASCADE,
  first bigint NOT NULL, last bigint NOT NULL, body bytea NOT NULL,
  PRIMARY KEY (run_id, first)
);
CREATE TABLE exchanges (
  run_id text COLLATE "C" NOT NULL REFERENCES runs ON DELETE CASCADE,
  n integer NOT NULL, request bytea NOT NULL, response bytea NOT NULL,
  ms double precision NOT NULL, write text NOT NULL,
  PRIMARY KEY (run_id, n)
);
ALTER TABLE events ALTER body SET STORAGE EXTERNAL;
ALTER TABLE exchanges ALTER request SET STORAGE EXTERNAL, ALTER response SET STORAGE EXTERNAL;
CREATE TABLE approvals (
  id text COLLATE "C" PRIMARY KEY, run_id text COLLATE "C" NOT NULL, thread_id text NOT NULL,
  owner text NOT NULL, tool_call_id text COLLATE "C" NOT NULL UNIQUE, tool text NOT NULL,
  arguments text NOT NULL, arguments_hash text NOT NULL, reason text NOT NULL,
  status text NOT NULL, created_at double precision NOT NULL,
  expires_at double precision NOT NULL, decided_by text, comment text,
  decided_at double precision, write text NOT NULL
);
CREATE INDEX approvals_run ON approvals (run_id);
CREATE INDEX approvals_pending ON approvals (owner, id) WHERE status = 'pending';
CREATE TABLE executions (
  tool_call_id text COLLATE "C" PRIMARY KEY, run_id text COLLATE "C" NOT NULL,
  tool text NOT NULL, arguments_hash text NOT NULL, status text NOT NULL,
  started_at double precision NOT NULL, outcome text, finished_at double precision,
  write text NOT NULL
);
CREATE INDEX executions_run ON executions (run_id);
"""
MIGRATIONS = (_FIRST,)
SCHEMA_VERSION = len(MIGRATIONS)
