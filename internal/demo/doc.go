// Package demo tells the whole story of Cardea in half a minute, with nothing staged: it starts a hub of real processes and two
// services that verify what they are given, and drives them through the same command line that a person would use.
//
// It promises that every claim in its report was checked when it was made, and that it fails when one does not hold. It leaves nothing
// behind: hub, services and folder are gone when Run returns.
package demo
