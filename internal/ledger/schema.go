package ledger

// Schema is the DDL of the ledger's tables, version 1 of the component "ledger" of whatever database holds them. A changed text
// would be refused by databases that have it already: later versions are constants of their own.
//
// None of the tables is trusted: whatever is read from them leads to the signed checkpoints or is refused.
const Schema = `
-- Leaves in the order of their commits. Whoever edits leaf or salt or payload is found by the next verification, whoever
-- deletes the newest rows by whoever has seen a later checkpoint. What an editor does gain: before a leaf is sequenced (some
-- hundred milliseconds) it can be changed without a trace, by someone who then holds the authority's file and thus its keys.
CREATE TABLE ledger_leaf (
	seq     INTEGER PRIMARY KEY,  -- order of commit
	id      TEXT    NOT NULL UNIQUE,
	idx     INTEGER UNIQUE,       -- index in the tree; NULL until sequenced
	leaf    TEXT    NOT NULL,     -- the canonical bytes that are hashed
	salt    BLOB,                 -- NULL with the payload once erased
	payload BLOB,
	CHECK ((salt IS NULL) = (payload IS NULL))
) STRICT;

-- The tree's hashes in tiles of height 8: up to 256 hashes of level 8*level, from n*256 on. An editor gains refusals: every
-- read is checked against the signed root. The hub does not start on a tree that does not lead to its newest checkpoint.
CREATE TABLE ledger_tile (
	level  INTEGER NOT NULL,
	n      INTEGER NOT NULL,
	hashes BLOB    NOT NULL,
	PRIMARY KEY (level, n)
) STRICT;

-- Signed checkpoints. An editor without the key can only remove the newest ones, which everyone who has seen them notices.
CREATE TABLE ledger_checkpoint (
	size INTEGER PRIMARY KEY,
	note TEXT    NOT NULL
) STRICT;

-- Erasures whose leaf is not sequenced yet. An editor gains what they could do to ledger_leaf anyway: remove payloads, which
-- verification then reports, or keep one from being removed.
CREATE TABLE ledger_erasure (
	erasure TEXT PRIMARY KEY,   -- leaf that records it
	leaf    TEXT NOT NULL       -- leaf whose payload goes
) STRICT;
`
