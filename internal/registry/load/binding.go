package load

import (
	"fmt"
	"slices"
	"strings"

	"cardea/internal/registry"
)

// bindable are the fields of a connection that environments differ in. Hosts, audience and allow are not among them: they are what
// reviewers read in the folder.
func bindable() []string { return []string{"address", "roots", "rootsFile", "ttl"} }

// bind applies every Binding to the connections that were read with it.
func (l *loader) bind() {
	connections := map[string][]*draft{}
	for _, d := range l.drafts {
		if name, ok := d.members["name"].(string); ok && d.kind == registry.KindConnection {
			connections[name] = append(connections[name], d)
		}
	}
	bound := map[string]*draft{}
	for _, b := range l.bindings {
		for _, key := range []string{"name", "connections"} {
			if b.members[key] == nil {
				l.fail(b.file, b.doc, "", "Binding: %s is missing", key)
			}
		}
		for key := range b.members {
			if !slices.Contains([]string{"kind", "name", "connections"}, key) {
				l.fail(b.file, b.doc, "/"+key, "Binding: %s is not a field here; these are: kind, name, connections", key)
			}
		}
		fields, _ := b.members["connections"].(map[string]any)
		for name, v := range fields {
			pointer := "/connections/" + name
			switch values, ok := v.(map[string]any); {
			case !ok:
				l.fail(b.file, b.doc, pointer, "Binding: must be an object with some of %s", strings.Join(bindable(), ", "))
			case len(connections[name]) == 0:
				l.fail(b.file, b.doc, pointer, "Binding: there is no Connection %s in what is applied: mend the name, or apply its folder too", name)
			case bound[name] != nil:
				l.fail(b.file, b.doc, pointer, "Binding: connection %s is bound in %s already", name, bound[name].at())
			default:
				bound[name] = b
				l.bindOne(b, pointer, values, connections[name])
			}
		}
	}
}

func (l *loader) bindOne(b *draft, pointer string, values map[string]any, connections []*draft) {
	for key, v := range values {
		text, ok := v.(string)
		switch {
		case !slices.Contains(bindable(), key):
			l.fail(b.file, b.doc, pointer+"/"+key, "Binding: %s cannot be bound; these can: %s", key, strings.Join(bindable(), ", "))
			continue
		case !ok:
			l.fail(b.file, b.doc, pointer+"/"+key, "Binding: %s must be a string", key)
			continue
		case key == "rootsFile":
			if values["roots"] != nil {
				l.fail(b.file, b.doc, pointer, "Binding: roots and rootsFile exclude each other")
				continue
			}
			data, err := l.reference(b.file, text)
			if err != nil {
				l.fail(b.file, b.doc, pointer+"/"+key, "Binding: %v", fmt.Errorf("certificates %s: %w", text, err))
				continue
			}
			key, text = "roots", string(data)
		}
		for _, c := range connections {
			c.members[key] = text
		}
	}
}
