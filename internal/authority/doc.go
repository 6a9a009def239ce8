// Package authority is the trusted core: the one place that decides and, in the same transaction, records.
//
// It promises that nothing is allowed, minted, approved or changed without a ledger leaf that is durable first; that a permit
// exists only for an allow over exactly those bytes under the policy in force; that at most one epoch of a task is valid; that
// what was approved is what runs. It refuses whatever it cannot decide or record: there is no way around Commit.
//
// Who calls is always a parameter. It reads strict JSON and protobuf, signatures and SQL rows; it parses no YAML, evaluates no
// jq and dials nobody.
package authority
