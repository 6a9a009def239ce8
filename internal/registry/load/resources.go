package load

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"cardea/internal/flow"
	"cardea/internal/flow/claims"
	"cardea/internal/flow/source"
	"cardea/internal/registry"
)

const kindBinding = "Binding"

// draft is one resource on its way: its members may still be filled in.
type draft struct {
	file    *file
	doc     *source.RawResource // nil for a policy
	kind    string
	name    string // of a policy
	members map[string]any
	body    []byte // of a workflow or policy
}

func (l *loader) parse(f *file) {
	if path.Ext(f.name) == ".cedar" || path.Ext(f.name) == ".json" && !describesResource(f.data) {
		return // a JSON file of another kind is a schema, an input or not ours
	}
	docs, findings, _ := source.LoadResources(f.shown, f.data)
	l.find(f, findings...)
	f.docs = docs
	for i := range docs {
		if docs[i].Kind == registry.KindProcess {
			var process struct{ Name string }
			if json.Unmarshal(docs[i].Canonical, &process) == nil && process.Name != "" {
				dir := path.Dir(f.name)
				f.folder.processes[dir] = append(f.folder.processes[dir], process.Name)
			}
		}
	}
}

func describesResource(data []byte) bool {
	var head map[string]json.RawMessage
	return json.Unmarshal(data, &head) == nil && (head["kind"] != nil || head["document"] != nil)
}

// finish makes drafts of a file's documents, with what their folder supplies put in.
func (l *loader) finish(f *file) {
	if f.context {
		return
	}
	if path.Ext(f.name) == ".cedar" {
		l.drafts = append(l.drafts, &draft{file: f, kind: registry.KindPolicy, name: policyName(f), body: f.data})
		return
	}
	for i := range f.docs {
		d := &draft{file: f, doc: &f.docs[i], kind: f.docs[i].Kind}
		switch d.kind {
		case "":
			l.fail(f, d.doc, "", "this document has neither a kind nor a workflow's document and do: give it one, or move the file elsewhere")
		case registry.KindWorkflow:
			d.body = d.doc.Canonical
			l.drafts = append(l.drafts, d)
		default:
			l.object(d)
		}
	}
}

func policyName(f *file) string {
	base := strings.TrimSuffix(path.Base(f.name), ".cedar")
	if process := f.folder.processOf(f.name); process != "" {
		return process + "/" + base
	}
	return base
}

// object reads a resource's members and fills in its process, schemas and certificates.
func (l *loader) object(d *draft) {
	dec := json.NewDecoder(bytes.NewReader(d.doc.Canonical))
	dec.UseNumber()
	if err := dec.Decode(&d.members); err != nil {
		l.fail(d.file, d.doc, "", "must be an object")
		return
	}
	switch d.kind {
	case registry.KindConnection:
		l.fillProcess(d)
		l.inlineSchemas(d)
	case registry.KindApprovalRule:
		l.fillProcess(d)
	case kindBinding:
		l.bindings = append(l.bindings, d)
		return
	}
	l.drafts = append(l.drafts, d)
}

func (l *loader) fillProcess(d *draft) {
	if process := d.file.folder.processOf(d.file.name); process != "" && d.members["process"] == nil {
		d.members["process"] = process
	}
}

func (l *loader) inlineSchemas(d *draft) {
	allows, _ := d.members["allow"].([]any)
	for i, v := range allows {
		allow, _ := v.(map[string]any)
		if allow["body"] == nil {
			continue
		}
		text, err := l.schemaText(d, allow["body"])
		if err != nil {
			l.fail(d.file, d.doc, fmt.Sprintf("/allow/%d/body", i), "%v", err)
			text = "true" // said once is enough
		}
		allow["body"] = text
	}
}

// schemaText takes a schema as an object, as its text, or as the name of its file. Layout is taken out, so that it changes nothing.
func (l *loader) schemaText(d *draft, body any) (string, error) {
	var raw []byte
	switch b := body.(type) {
	case map[string]any:
		var err error
		if raw, err = json.Marshal(b); err != nil {
			return "", err
		}
	case string:
		raw = []byte(b)
		if t := strings.TrimSpace(b); !strings.HasPrefix(t, "{") && t != "true" && t != "false" {
			var err error
			if raw, err = l.reference(d.file, b); err != nil {
				return "", fmt.Errorf("schema %s: %w", b, err)
			}
		}
	default:
		return "", errors.New("must be a JSON Schema or the name of a file that holds one")
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return "", fmt.Errorf("is not JSON: %w", err)
	}
	return compact.String(), nil
}

// reference reads a file that a document names: relative to the document, inside the folder.
func (l *loader) reference(f *file, name string) ([]byte, error) {
	if path.IsAbs(name) || strings.Contains(name, `\`) {
		return nil, errors.New("write the path relative to this file, with /")
	}
	root, err := f.folder.open()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	data, err := read(root, path.Join(path.Dir(f.name), name))
	if err == nil {
		if l.total += int64(len(data)); l.total > maxTotal {
			err = fmt.Errorf("more than %d MiB in all", maxTotal>>20)
		}
	}
	return data, err
}

// make decodes every draft as the authority will, and places what it says in the files.
func (l *loader) make() {
	where := map[registry.ID]*draft{}
	for _, d := range l.drafts {
		body := d.body
		if d.members != nil {
			var err error
			if body, err = json.Marshal(d.members); err != nil {
				l.fail(d.file, d.doc, "", "%v", err)
				continue
			}
		}
		if d.kind == registry.KindWorkflow && !l.compile(d) {
			continue
		}
		r, _, err := registry.NewResource(d.kind, d.name, body)
		if err != nil {
			l.refused(d, err)
			continue
		}
		if first := where[r.ID()]; first != nil {
			l.fail(d.file, d.doc, "", "%s stands here and in %s", r.ID(), first.at())
			continue
		}
		where[r.ID()] = d
		l.made = append(l.made, r)
	}
}

func (d *draft) at() string {
	if d.doc == nil {
		return d.file.shown
	}
	return fmt.Sprintf("%s:%d", d.file.shown, d.doc.Line)
}

// compile says everything about a definition that the engine would, with its warnings.
func (l *loader) compile(d *draft) bool {
	_, findings := flow.Compile(d.doc.Canonical, flow.Options{Profile: true})
	l.find(d.file, d.doc.Place(findings)...)
	return !slices.ContainsFunc(findings, func(f claims.Finding) bool { return f.Severity == claims.Error })
}

// refused spreads a decoder's problems over the places that they begin with: "/allow/0/path: …".
func (l *loader) refused(d *draft, err error) {
	var problems *registry.DecodeError
	if !errors.As(err, &problems) || d.doc == nil {
		l.fail(d.file, d.doc, "", "%v", err)
		return
	}
	for _, p := range problems.Problems {
		pointer, message, ok := strings.Cut(p, ": ")
		if !ok || !strings.HasPrefix(pointer, "/") {
			pointer, message = "", p
		} else {
			message = strings.TrimPrefix(pointer, "/") + " " + message
		}
		l.fail(d.file, d.doc, pointer, "%s: %s", problems.Resource, message)
	}
}
