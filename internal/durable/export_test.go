package durable

// InMemory is how many runs a driver has in memory.
func InMemory(d *Driver) int { return d.runs.size() }
