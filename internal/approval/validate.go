package approval

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"cardea/internal/action"
)

// validate refuses a statement that is incomplete, out of bounds, or says one thing in two ways.
func (s *Statement) validate() error {
	if s.V != Version {
		return fmt.Errorf("version %d is not known to this build", s.V)
	}
	for _, f := range []struct{ name, value string }{
		{"id", s.ID}, {"hub", s.Hub}, {"requester", s.Requester}, {"nonce", s.Nonce}, {"rule", s.Rule.Name},
	} {
		if err := required(f.name, f.value); err != nil {
			return err
		}
	}
	if err := optional("replaces", s.Replaces); err != nil {
		return err
	}
	switch {
	case len(s.Nonce) < 16:
		return errors.New("nonce has fewer than 16 characters")
	case s.Attempts < 1 || s.Attempts > MaxAttempts:
		return fmt.Errorf("attempts is %d; it must be 1 to %d", s.Attempts, MaxAttempts)
	case !s.ExpiresAt.After(s.CreatedAt.Time):
		return errors.New("it expires before it is made")
	}
	for _, t := range []Instant{s.CreatedAt, s.ExpiresAt} {
		if t != At(t.Time) || t.Year() < 2000 || t.Year() > 9999 {
			return errors.New("a time is not in UTC milliseconds")
		}
	}
	if err := s.Rule.validate(); err != nil {
		return err
	}
	if err := s.lists(); err != nil {
		return err
	}
	switch s.Kind {
	case KindAttempt:
		return s.validateAttempt()
	case KindPlan:
		return s.validatePlan()
	}
	return fmt.Errorf("kind %.40q is not known to this build", s.Kind)
}

func (s *Statement) lists() error {
	if err := texts("appliers", s.Appliers, 0); err != nil {
		return err
	}
	if len(s.Policies) == 0 || len(s.Policies) > maxList {
		return fmt.Errorf("%d policies; 1 to %d must stand in it", len(s.Policies), maxList)
	}
	for _, p := range s.Policies {
		if err := required("policy", p.ID); err != nil {
			return err
		}
		if err := digest("policy "+p.ID, p.Digest); err != nil {
			return err
		}
	}
	if s.Process != nil {
		if err := required("process", s.Process.Name); err != nil {
			return err
		}
		return required("process owner", s.Process.Owner)
	}
	return nil
}

func (r *Rule) validate() error {
	if err := digest("rule", r.Digest); err != nil {
		return err
	}
	if err := texts("approvers", r.Approvers, 1); err != nil {
		return err
	}
	for _, a := range r.Approvers {
		kind, name, ok := strings.Cut(a, ":")
		if !ok || name == "" || kind != "group" && kind != "person" {
			return fmt.Errorf("approver %.80q is neither group:<name> nor person:<name>", a)
		}
	}
	if r.Quorum < 1 || r.Quorum > maxList {
		return fmt.Errorf("quorum is %d; at least one person must sign", r.Quorum)
	}
	return nil
}

func (s *Statement) validateAttempt() error {
	if s.Plan != nil {
		return errors.New("an attempt holds no plan")
	}
	if s.Process == nil || s.Workflow == nil || s.Task == nil || s.Run == "" {
		return errors.New("an attempt names process, workflow, task and run")
	}
	for _, f := range []struct{ name, value string }{
		{"run", s.Run}, {"workflow", s.Workflow.Ref}, {"version", s.Workflow.Version}, {"task", s.Task.Pointer}, {"task name", s.Task.Name},
	} {
		if err := required(f.name, f.value); err != nil {
			return err
		}
	}
	if err := digest("workflow", s.Workflow.Digest); err != nil {
		return err
	}
	if len(s.Actions) == 0 || len(s.Actions) > MaxActions || len(s.Connections) > maxList || len(s.Iteration) > maxList {
		return fmt.Errorf("%d actions; 1 to %d may stand in it", len(s.Actions), MaxActions)
	}
	if err := s.validateActions(); err != nil {
		return err
	}
	for i := range s.Connections {
		if err := s.Connections[i].validate(); err != nil {
			return err
		}
	}
	return nil
}

func (s *Statement) validateActions() error {
	keys := make(map[string]bool, len(s.Actions))
	for i, a := range s.Actions {
		if err := required("idempotency key", a.IdempotencyKey); err != nil {
			return err
		}
		if keys[a.IdempotencyKey] {
			return fmt.Errorf("action %d has the idempotency key of another", i)
		}
		keys[a.IdempotencyKey] = true
		if _, err := action.Parse(a.Action); err != nil {
			return fmt.Errorf("action %d: %w", i, err)
		}
		if got := action.Digest(a.Action); got != a.Digest {
			return fmt.Errorf("action %d has digest %s, not the stated %.80q", i, got, a.Digest)
		}
	}
	return nil
}

func required(name, value string) error {
	if value == "" || len(value) > maxText || !utf8.ValidString(value) {
		return fmt.Errorf("%s is missing, longer than %d bytes or not UTF-8", name, maxText)
	}
	return nil
}

func texts(name string, values []string, least int) error {
	if len(values) < least || len(values) > maxPrivileges {
		return fmt.Errorf("%s has %d entries", name, len(values))
	}
	for _, v := range values {
		if err := required(name, v); err != nil {
			return err
		}
	}
	return nil
}

func digest(of, d string) error {
	hex, ok := strings.CutPrefix(d, "sha256:")
	if !ok || len(hex) != 64 || slices.ContainsFunc([]byte(hex), func(c byte) bool { return !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') }) {
		return fmt.Errorf("the digest of %s is not sha256:<64 hex digits>", of)
	}
	return nil
}

func optional(name, value string) error {
	if value == "" {
		return nil
	}
	return required(name, value)
}
