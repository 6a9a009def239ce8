// Package examples carries the example processes, so that the demo runs what the folder shows.
package examples

import "embed"

// Payroll is the folder payroll: process, connections, rule, policies, workflows, schemas and inputs.
//
//go:embed payroll
var Payroll embed.FS
