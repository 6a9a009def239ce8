package claims

import "slices"

// claims fills the Definition's Claims. It runs only when there is no error.
func (p *reader) claims() {
	d := p.def
	d.Claims = Claims{
		Process: d.Document.Namespace, Workflow: d.Document.Name, Version: d.Document.Version, Digest: d.Digest,
		Connections: sorted(d.secrets), Tasks: []TaskClaim{},
	}
	p.extract(d.Do, false)
}

// extract claims for a list. A task repeats when its list's task does, too.
func (p *reader) extract(list []*Task, repeats bool) {
	for _, t := range list {
		t.Repeats = t.Repeats || repeats
		if t.Meta.Tier == "" && t.HTTP != nil {
			t.Meta.Tier = p.def.Document.Tier
		}
		if t.HTTP != nil && t.HTTP.Origin != "" {
			p.def.Claims.Tasks = append(p.def.Claims.Tasks, t.claim())
		}
		p.extract(t.Do, t.Repeats)
	}
}

func (t *Task) claim() TaskClaim {
	c := TaskClaim{
		Pointer: t.Pointer, Name: t.Name, Kind: t.Kind, Method: t.HTTP.Method, Origin: t.HTTP.Origin, PathTemplate: t.HTTP.Path.Source,
		Headers: []string{}, Connections: []string{}, Scopes: sorted(t.Meta.Scopes), Tier: t.Meta.Tier, Effect: t.HTTP.Effect,
		Repeats: t.Repeats, MaxAttempts: 1, Gates: []string{},
	}
	for _, h := range t.HTTP.Headers {
		c.Headers = append(c.Headers, h.Name)
	}
	if t.HTTP.Connection != "" {
		c.Connections = append(c.Connections, t.HTTP.Connection)
	}
	return c
}

func sorted(list []string) []string {
	out := append([]string{}, list...)
	slices.Sort(out)
	return out
}
