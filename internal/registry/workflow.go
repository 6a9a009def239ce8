package registry

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/mod/semver"

	"cardea/internal/flow/claims"
)

// Workflow is one version of a definition. Definition is its canonical form, the bytes that its digest names and that engines run.
type Workflow struct {
	claims.Claims
	Definition []byte
}

// ID names the version: <process>/<workflow>@<version>.
func (w *Workflow) ID() ID {
	return ID{KindWorkflow, WorkflowName(w.Process, w.Workflow, w.Version)}
}

// Title gives process/workflow without the version, as policies name it.
func (w *Workflow) Title() string { return w.Process + "/" + w.Workflow }

// WorkflowName writes the resource name of a version.
func WorkflowName(process, workflow, version string) string {
	return process + "/" + workflow + "@" + version
}

// SplitWorkflowName reads <process>/<workflow> with an optional @<version>.
func SplitWorkflowName(name string) (process, workflow, version string, err error) {
	title, version, versioned := strings.Cut(name, "@")
	process, workflow, ok := strings.Cut(title, "/")
	if !ok || checkName(process) != nil || checkName(workflow) != nil || versioned && !semver.IsValid("v"+version) {
		return "", "", "", fmt.Errorf("%q is not <process>/<workflow> or <process>/<workflow>@<version>", name)
	}
	return process, workflow, version, nil
}

func decodeWorkflow(body []byte) (Object, error) {
	if len(body) > MaxResource {
		return nil, &DecodeError{ID{Kind: KindWorkflow}, []string{fmt.Sprintf("%d bytes; at most %d are allowed", len(body), MaxResource)}}
	}
	c, err := claims.Decode(body)
	if err != nil {
		return nil, &DecodeError{ID{Kind: KindWorkflow}, []string{err.Error()}}
	}
	w := &Workflow{Claims: c, Definition: body}
	if _, _, _, err := SplitWorkflowName(w.ID().Name); err != nil || c.Version == "" {
		return nil, &DecodeError{w.ID(), []string{"namespace and name must be names and version a semantic version"}}
	}
	return w, nil
}

// DecodePolicy reads one Cedar file as far as it can be read alone; Build compiles all of them together.
func DecodePolicy(name string, text []byte) (*Policy, error) {
	p := &Policy{Name: name, Text: string(text)}
	fail := func(err error) error { return &DecodeError{p.ID(), []string{err.Error()}} }
	for part := range strings.SplitSeq(name, "/") {
		if err := checkName(part); err != nil {
			return nil, fail(fmt.Errorf("%w; a policy's is <process>/<file>, or <file> for one of the hub", err))
		}
	}
	switch {
	case strings.Count(name, "/") > 1:
		return nil, fail(errors.New("a policy's name is <process>/<file>, or <file> for one of the hub"))
	case len(text) > MaxResource:
		return nil, fail(fmt.Errorf("%d bytes; at most %d are allowed", len(text), MaxResource))
	case !utf8.Valid(text) || strings.ContainsFunc(p.Text, func(r rune) bool { return r != '\n' && r != '\t' && r != '\r' && isControl(r) }):
		return nil, fail(errors.New("holds control characters or bytes that are not UTF-8, which would show another text than the one that counts"))
	}
	return p, nil
}
