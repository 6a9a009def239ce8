package role

// Names of the roles, as in their SPIFFE ids.
const (
	Authority = "authority"
	Engine    = "engine"
	Runner    = "runner"
	Console   = "console"
	Origin    = "origin"
	Gateway   = "gateway"
)
