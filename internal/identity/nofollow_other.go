//go:build !unix

package identity

// noFollow is not available here: a symbolic link to a secret is followed.
const noFollow = 0
