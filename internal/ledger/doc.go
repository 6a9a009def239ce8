// Package ledger is the append-only record of what was decided, issued, approved and done.
//
// It promises that a leaf stands or falls with the transaction that it was appended in; that every leaf gets one index in one
// Merkle tree (RFC 6962) whose signed checkpoints are all consistent with each other, their size never falling; that whoever holds
// an export and the verifier key can check all of it without trusting the hub; and that a payload can be erased while its leaf
// stays provable.
//
// It refuses to sign a checkpoint that it cannot prove to extend the last one, to start on a tree that does not hash to its own
// newest checkpoint, leaves that are not in canonical form, and a read whose hashes do not lead to the signed root.
package ledger
