package source

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"

	"cardea/internal/flow"
	"cardea/internal/flow/claims"
)

// maxFile bounds a file; its documents are bounded each as canonical documents are.
const maxFile = 4 << 20

// maxDocuments bounds the documents of one file.
const maxDocuments = 1000

// Document is a file's one document.
type Document struct {
	Name      string // of the file, for messages
	Canonical []byte // RFC 8785
	Positions Positions
}

// RawResource is one document of a file of resources. Its kind is "Workflow" when it has no kind and looks like a definition.
type RawResource struct {
	Kind      string // as written; "" when it says none and is no workflow
	Canonical []byte // RFC 8785 of the whole document, kind included
	File      string
	Line      int // of its first value, from 1
	Positions Positions
}

// Load reads a file of one document. The error is nil if and only if no finding is an error.
func Load(name string, text []byte) (Document, []flow.Finding, error) {
	nodes, f := parse(name, text)
	if f == nil && len(nodes) != 1 {
		f = &flow.Finding{Rule: "yaml/documents", Message: fmt.Sprintf("the file has %d documents where one is meant", len(nodes))}
		if len(nodes) > 1 {
			f.Line, f.Column = nodes[1].Line, nodes[1].Column
		}
	}
	if f != nil {
		return Document{Name: name}, failed(name, *f), asError(name, *f)
	}
	canonical, positions, findings := convert(name, nodes[0])
	if len(findings) > 0 {
		return Document{Name: name}, findings, asError(name, findings[0])
	}
	return Document{Name: name, Canonical: canonical, Positions: positions}, nil, nil
}

// LoadResources reads a file of resources: documents separated by `---`; empty ones are left out. The error is nil if and
// only if no finding is an error; what could be read is returned all the same.
func LoadResources(name string, text []byte) ([]RawResource, []flow.Finding, error) {
	nodes, f := parse(name, text)
	if f != nil {
		return nil, failed(name, *f), asError(name, *f)
	}
	var list []RawResource
	var findings []flow.Finding
	for _, n := range nodes {
		canonical, positions, wrong := convert(name, n)
		findings = append(findings, wrong...)
		if len(wrong) > 0 || string(canonical) == "null" {
			continue
		}
		list = append(list, RawResource{Kind: kindOf(canonical), Canonical: canonical, File: name, Line: positions.At("").Line, Positions: positions})
	}
	if len(findings) > 0 {
		return list, findings, asError(name, findings[0])
	}
	return list, nil, nil
}

func kindOf(canonical []byte) string {
	n, err := claims.ParseCanonical(canonical)
	if err != nil {
		return ""
	}
	if k := n.Get("kind"); k != nil {
		return k.Text
	}
	if n.Get("document") != nil && n.Get("do") != nil {
		return "Workflow"
	}
	return ""
}

// Compile loads and compiles a definition, and places the findings in the file. The Plan is nil if and only if one of them
// is an error.
func Compile(name string, text []byte, o flow.Options) (*flow.Plan, []flow.Finding) {
	d, findings, err := Load(name, text)
	if err != nil {
		return nil, findings
	}
	plan, findings := flow.Compile(d.Canonical, o)
	return plan, d.Place(findings)
}

// parse reads YAML into nodes. It bounds the text; what aliases make of it is convert's to bound.
func parse(name string, text []byte) ([]*yaml.Node, *flow.Finding) {
	if len(text) > maxFile {
		return nil, &flow.Finding{Rule: "yaml/size", Message: fmt.Sprintf("the file is larger than %d bytes", maxFile)}
	}
	if !utf8.Valid(text) {
		return nil, &flow.Finding{Rule: "yaml/encoding", Message: "the file is not UTF-8"}
	}
	loader, err := yaml.NewLoader(bytes.NewReader(text),
		yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(claims.MaxDepth+8), loaderlimits.AliasNone())))
	if err != nil {
		return nil, &flow.Finding{Rule: "yaml/syntax", Message: err.Error()}
	}
	var nodes []*yaml.Node
	for {
		n := new(yaml.Node)
		switch err := loader.Load(n); {
		case errors.Is(err, io.EOF):
			return nodes, nil
		case err != nil:
			return nil, syntax(err)
		}
		if len(nodes) == maxDocuments {
			return nil, &flow.Finding{Rule: "yaml/documents", Line: n.Line, Message: fmt.Sprintf("the file has more than %d documents", maxDocuments)}
		}
		if n.Kind == yaml.DocumentNode && len(n.Content) == 1 {
			n = n.Content[0]
		}
		nodes = append(nodes, n)
	}
}

func syntax(err error) *flow.Finding {
	f := &flow.Finding{Rule: "yaml/syntax", Message: "not YAML: " + err.Error()}
	var at *yaml.LoadError
	if errors.As(err, &at) {
		f.Message, f.Line, f.Column = "not YAML: "+at.Message, at.Mark.Line, at.Mark.Column
	}
	return f
}

func failed(name string, f flow.Finding) []flow.Finding {
	f.Severity, f.File = claims.Error, name
	return []flow.Finding{f}
}

func asError(name string, f flow.Finding) error {
	f.Severity, f.File = claims.Error, name
	return errors.New(line(f))
}

// Format writes findings for people, one per line: file:line:col: error: message (rule), with the mend on a line of its own.
func Format(findings []flow.Finding) string {
	var b strings.Builder
	for _, f := range sortedFindings(findings) {
		b.WriteString(line(f))
		b.WriteByte('\n')
		if f.Mend != "" {
			b.WriteString("    " + f.Mend + "\n")
		}
	}
	return b.String()
}

func line(f flow.Finding) string {
	at := f.File
	if at == "" {
		at = "-"
	}
	if f.Line > 0 {
		at += fmt.Sprintf(":%d:%d", f.Line, max(f.Column, 1))
	} else if f.Pointer != "" {
		at += "#" + f.Pointer
	}
	return fmt.Sprintf("%s: %s: %s (%s)", printable(at), f.Severity, printable(f.Message), f.Rule)
}

// printable keeps what a document says from steering a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '\uFFFD'
		}
		return r
	}, s)
}

func sortedFindings(findings []flow.Finding) []flow.Finding {
	out := slices.Clone(findings)
	slices.SortStableFunc(out, func(a, b flow.Finding) int {
		if c := strings.Compare(a.File, b.File); c != 0 {
			return c
		}
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return out
}
