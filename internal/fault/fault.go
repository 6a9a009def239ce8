//go:build !faultpoints

// Package fault names the places at which crash tests kill a role. In a normal build a point is nothing at all; only a binary
// built with the tag faultpoints reads CARDEA_FAULT, so that no environment variable can stop a role in production.
package fault

// Enabled says whether this build has fault points.
const Enabled = false

// Point does nothing in this build.
func Point(string) {}
