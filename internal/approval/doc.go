// Package approval is people's consent that cannot drift: a statement says by value everything that will happen, people
// sign its digest, and nothing else can be done with their signatures.
//
// It promises that
//   - a statement has one byte form, RFC 8785 JSON, and Decode refuses any other, so that the authority, the signer and
//     an auditor read the same statement;
//   - every action in it stands there as its own canonical bytes, and Decode refuses one whose digest is another's;
//   - a quorum counts distinct persons, never keys, who at the moment of use are active, eligible under the rule in the
//     statement, hold the key they signed with, and are neither the requester nor an applier;
//   - what a person is shown is rendered from the signed bytes alone, and nothing in them can hide, fake or reorder a
//     line of it.
//
// It is pure. The authority stores rows and asks; package verify checks the signatures themselves.
package approval
