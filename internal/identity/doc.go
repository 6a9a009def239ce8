// Package identity gives every role and runner a name that others can verify,
// and refuses whoever cannot prove one.
//
// It promises: an X.509-SVID is issued only to the holder of its key and only
// for a name that the caller of Issue chose; a peer is accepted only while its
// SVID is of this trust domain, signed by a role root of the newest bundle,
// carries exactly one SPIFFE id and the key usage of its side, is not expired
// and not banned; a bundle never goes back to an older generation.
//
// It refuses: TLS below 1.3, session resumption (it would outlive an SVID),
// keys other than ECDSA P-256, names outside a small alphabet, key files that
// others can read. It decides nothing about what a peer may call: that is
// role.Admit's.
package identity
