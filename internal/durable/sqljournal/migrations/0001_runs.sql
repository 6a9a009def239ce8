-- The engine's journal. Whoever edits these tables can show people what never happened, choose the data and branches of open runs, and
-- repeat or suppress attempts that the authority allows. They cannot obtain a verdict, a permit or a credential by it.

-- A row per run. Editing one misleads lists; the run itself is its events.
CREATE TABLE runs (
  id           TEXT PRIMARY KEY,
  format       INTEGER NOT NULL,
  workflow     TEXT NOT NULL,
  version      TEXT NOT NULL,
  digest       TEXT NOT NULL,
  person       TEXT NOT NULL,
  request_id   TEXT NOT NULL,
  ticket_id    TEXT NOT NULL UNIQUE,
  input_digest TEXT NOT NULL,
  started_at   INTEGER NOT NULL,
  status       TEXT NOT NULL,
  started_by   TEXT NOT NULL DEFAULT '',
  kind         TEXT NOT NULL DEFAULT '',
  origin       TEXT NOT NULL DEFAULT '',
  ended_at     INTEGER NOT NULL DEFAULT 0,
  closed       INTEGER NOT NULL DEFAULT 0,
  UNIQUE (person, request_id)
) STRICT;

CREATE INDEX runs_live ON runs (status, id) WHERE closed = 0;
CREATE INDEX runs_of_workflow ON runs (workflow, id);

-- The inputs of a run, in order. Replaying them gives the run, or an explicit refusal: commands is the SHA-256 of what each caused.
CREATE TABLE events (
  run      TEXT NOT NULL REFERENCES runs (id),
  seq      INTEGER NOT NULL,
  data     BLOB NOT NULL,
  commands BLOB NOT NULL,
  PRIMARY KEY (run, seq)
) STRICT, WITHOUT ROWID;

-- Definitions by digest. The reader computes the digest again, so that an edited one is refused.
CREATE TABLE definitions (
  digest    TEXT PRIMARY KEY,
  canonical BLOB NOT NULL
) STRICT;

-- Who held which attempt. Editing a row can make the engine wait for a runner that has nothing, or believe a result from the runner named.
CREATE TABLE grants (
  run      TEXT NOT NULL,
  task     TEXT NOT NULL,
  attempt  INTEGER NOT NULL,
  epoch    INTEGER NOT NULL,
  permit   TEXT NOT NULL,
  runner   TEXT NOT NULL,
  key      TEXT NOT NULL,
  tier     TEXT NOT NULL,
  deadline INTEGER NOT NULL,
  PRIMARY KEY (run, task)
) STRICT, WITHOUT ROWID;
