package authority

// Schema is the authority's own tables; the ledger's and the broker's stand beside them in the same database, so that one
// transaction covers a change and its leaf. Whoever can write this file is the authority: what each table would give is said
// so that a reviewer knows which rows to compare with the ledger, which such a writer cannot rewrite unseen.
const Schema = `
-- meta holds the generation and the clock's high-water mark. Lowering either could revive a voided permit or an expired approval.
CREATE TABLE meta (
  key   TEXT PRIMARY KEY,
  value INTEGER NOT NULL
) STRICT;

-- resources is desired state. An edit changes what policy decides over; every apply has its leaf with the digests.
CREATE TABLE resources (
  kind       TEXT NOT NULL,
  name       TEXT NOT NULL,
  body       BLOB NOT NULL,
  digest     TEXT NOT NULL,
  applied_at INTEGER NOT NULL,
  applied_by TEXT NOT NULL,
  PRIMARY KEY (kind, name)
) STRICT;

-- definitions keeps the bytes of every workflow that was ever applied, for the runs that still use them, and everybody who ever
-- applied them. Bytes that do not hash to their digest are refused when read; a removed name could then approve.
CREATE TABLE definitions (
  digest     TEXT PRIMARY KEY,
  canonical  BLOB NOT NULL,
  applied_by TEXT NOT NULL
) STRICT;

-- join_tokens holds SHA-256 digests of one-use tokens. A row that is added lets its maker become that role.
CREATE TABLE join_tokens (
  hash       TEXT PRIMARY KEY,
  role       TEXT NOT NULL,
  name       TEXT NOT NULL,
  tier       TEXT NOT NULL,
  expires_at INTEGER NOT NULL,
  used_at    INTEGER NOT NULL DEFAULT 0
) STRICT;

-- svids is the key that each role and runner holds now. A changed thumbprint would bind new permits to another key.
CREATE TABLE svids (
  id         TEXT PRIMARY KEY,
  thumbprint TEXT NOT NULL,
  not_after  INTEGER NOT NULL
) STRICT;

-- bans lists SPIFFE ids that are refused. A removed row readmits a quarantined runner.
CREATE TABLE bans (
  id     TEXT PRIMARY KEY,
  at     INTEGER NOT NULL,
  reason TEXT NOT NULL
) STRICT;

-- sessions ties a key (RFC 7638 thumbprint) to a person. An added row lets its key's holder speak as that person; it does not
-- let them sign approvals.
CREATE TABLE sessions (
  thumbprint TEXT PRIMARY KEY,
  person     TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  dev        INTEGER NOT NULL
) STRICT;

-- proofs are the ids of proofs that changed something, kept while they could be replayed.
CREATE TABLE proofs (
  id    TEXT PRIMARY KEY,
  until INTEGER NOT NULL
) STRICT;

-- runs is what the authority accepted as started. A raised provenance would show against the start leaf.
CREATE TABLE runs (
  id                TEXT PRIMARY KEY,
  process           TEXT NOT NULL,
  workflow          TEXT NOT NULL,
  version           TEXT NOT NULL,
  digest            TEXT NOT NULL,
  evidence          TEXT NOT NULL,
  started_by        TEXT NOT NULL,
  provenance_kind   TEXT NOT NULL,
  provenance_origin TEXT NOT NULL,
  input_digest      TEXT NOT NULL,
  verdict           TEXT NOT NULL,
  state             TEXT NOT NULL CHECK (state IN ('open', 'refused', 'ended')),
  opened_at         INTEGER NOT NULL,
  ended_at          INTEGER NOT NULL DEFAULT 0,
  closure           TEXT NOT NULL DEFAULT '',
  closure_leaf      TEXT NOT NULL DEFAULT '',
  leaf              TEXT NOT NULL
) STRICT;

-- evidence is consumed once per workflow digest. A removed row lets a ticket start a second run.
CREATE TABLE evidence (
  id     TEXT NOT NULL,
  digest TEXT NOT NULL,
  run    TEXT NOT NULL,
  PRIMARY KEY (id, digest)
) STRICT;

-- instances is one row per visit of a task: its epoch, its idempotency key, the permit that may act, how many were redeemed, and the
-- one action that they were for. A lowered epoch would let an old attempt speak again, a lowered count give out more.
CREATE TABLE instances (
  id              TEXT PRIMARY KEY,
  run             TEXT NOT NULL,
  task            TEXT NOT NULL,
  epoch           INTEGER NOT NULL,
  idempotency_key TEXT NOT NULL,
  permit          TEXT NOT NULL DEFAULT '',
  redeemed        INTEGER NOT NULL DEFAULT 0,
  action_digest   TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX instances_run ON instances (run);

-- actions holds what was asked for, by value, once each. Bytes that do not hash to their digest are refused when read.
CREATE TABLE actions (
  digest    TEXT PRIMARY KEY,
  canonical TEXT NOT NULL
) STRICT;

-- attempts is every verdict, with its action by digest.
CREATE TABLE attempts (
  id            INTEGER PRIMARY KEY,
  instance      TEXT NOT NULL,
  run           TEXT NOT NULL,
  task          TEXT NOT NULL,
  iteration     TEXT NOT NULL,
  visit         INTEGER NOT NULL,
  attempt       INTEGER NOT NULL,
  epoch         INTEGER NOT NULL,
  runner        TEXT NOT NULL,
  connections   TEXT NOT NULL,
  action_digest TEXT NOT NULL REFERENCES actions (digest),
  generation    INTEGER NOT NULL,
  outcome       TEXT NOT NULL CHECK (outcome IN ('allow', 'deny', 'pending', 'in_doubt')),
  verdict       TEXT NOT NULL,
  approval      TEXT NOT NULL DEFAULT '',
  leaf          TEXT NOT NULL,
  decided_at    INTEGER NOT NULL
) STRICT;
CREATE INDEX attempts_run ON attempts (run);
CREATE INDEX attempts_instance ON attempts (instance);

-- permits is what was signed and what became of it. A permit set back to minted could be redeemed again.
CREATE TABLE permits (
  id          TEXT PRIMARY KEY,
  instance    TEXT NOT NULL,
  attempt     INTEGER NOT NULL REFERENCES attempts (id),
  run         TEXT NOT NULL,
  runner      TEXT NOT NULL,
  key         TEXT NOT NULL,
  claims      TEXT NOT NULL,
  state       TEXT NOT NULL CHECK (state IN ('minted', 'redeemed', 'returned', 'voided')),
  generation  INTEGER NOT NULL,
  expires_at  INTEGER NOT NULL,
  deadline    INTEGER NOT NULL,
  redeemed_at INTEGER NOT NULL DEFAULT 0,
  returned_at INTEGER NOT NULL DEFAULT 0,
  delivery    INTEGER NOT NULL DEFAULT 0,
  actions     TEXT NOT NULL DEFAULT '',
  void_reason TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX permits_run ON permits (run);
CREATE INDEX permits_attempt ON permits (attempt);
CREATE INDEX permits_runner ON permits (runner) WHERE state IN ('minted', 'redeemed');

-- approvals is what people were asked. The statement is what they sign, so an edit voids their signatures.
CREATE TABLE approvals (
  id         TEXT PRIMARY KEY,
  subject    TEXT NOT NULL,
  run        TEXT NOT NULL,
  statement  TEXT NOT NULL,
  lifts      TEXT NOT NULL,
  state      TEXT NOT NULL CHECK (state IN ('pending', 'approved', 'refused', 'expired', 'voided', 'used')),
  replaces   TEXT NOT NULL DEFAULT '',
  reason     TEXT NOT NULL DEFAULT '',
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  leaf       TEXT NOT NULL
) STRICT;
CREATE INDEX approvals_subject ON approvals (subject);
CREATE INDEX approvals_open ON approvals (expires_at) WHERE state IN ('pending', 'approved');
CREATE INDEX approvals_run ON approvals (run);

-- approval_uses has one row per permit, or per change, that an approval let through. A removed row gives an attempt back.
CREATE TABLE approval_uses (
  approval TEXT NOT NULL REFERENCES approvals (id),
  use      TEXT NOT NULL,
  key      TEXT NOT NULL,
  PRIMARY KEY (approval, use)
) STRICT;

-- signatures are re-verified at every use, so a forged row counts for nothing.
CREATE TABLE signatures (
  approval  TEXT NOT NULL REFERENCES approvals (id),
  person    TEXT NOT NULL,
  key       TEXT NOT NULL,
  signature BLOB NOT NULL,
  refused   INTEGER NOT NULL,
  reason    TEXT NOT NULL,
  signed_at INTEGER NOT NULL,
  leaf      TEXT NOT NULL,
  PRIMARY KEY (approval, person)
) STRICT;
`
