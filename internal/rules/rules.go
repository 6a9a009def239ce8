// Package rules holds the arrows between packages: who may import whom, and why. Its test is the wall; there is nothing to call.
package rules
