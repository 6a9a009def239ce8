package approval

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/gowebpki/jcs"
)

func (s *Statement) validatePlan() error {
	if s.Plan == nil {
		return errors.New("a plan's statement holds the plan")
	}
	if s.Workflow != nil || s.Task != nil || s.Run != "" || len(s.Actions)+len(s.Connections)+len(s.Iteration) > 0 || s.Visit != 0 {
		return errors.New("a plan's statement holds nothing of an attempt")
	}
	if s.Attempts != 1 {
		return errors.New("a plan is applied once")
	}
	return s.Plan.validate()
}

func (p *Plan) validate() error {
	if err := digest("plan", p.Digest); err != nil {
		return err
	}
	if err := texts("privileges", p.Privileges, 0); err != nil {
		return err
	}
	if len(p.Changes) == 0 || len(p.Changes) > MaxChanges {
		return fmt.Errorf("%d changes; 1 to %d may stand in it", len(p.Changes), MaxChanges)
	}
	seen := make(map[[2]string]bool, len(p.Changes))
	for i := range p.Changes {
		c := &p.Changes[i]
		if err := c.validate(); err != nil {
			return fmt.Errorf("change %d: %w", i, err)
		}
		if id := [2]string{c.Kind, c.Name}; seen[id] {
			return fmt.Errorf("change %d is about %s %s, as another", i, c.Kind, c.Name)
		} else {
			seen[id] = true
		}
	}
	return nil
}

// validate also refuses a side where there is no resource: an old text shown beside a new resource would be a lie.
func (c *Change) validate() error {
	if err := required("kind", c.Kind); err != nil {
		return err
	}
	if err := required("name", c.Name); err != nil {
		return err
	}
	before, after := c.Verb != VerbNew, c.Verb != VerbRemoved
	switch {
	case c.Verb != VerbNew && c.Verb != VerbChanged && c.Verb != VerbRemoved:
		return fmt.Errorf("verb %.40q is not known to this build", c.Verb)
	case !before && c.Before != "" || !after && c.After != "":
		return fmt.Errorf("%s %s, which is %s, has a text too many", c.Kind, c.Name, c.Verb)
	case c.Verb == VerbChanged && c.Before == c.After:
		return fmt.Errorf("%s %s stays as it is", c.Kind, c.Name)
	}
	if before {
		if err := c.text(c.Before); err != nil {
			return err
		}
	}
	if after {
		return c.text(c.After)
	}
	return nil
}

// text wants a resource in its one form. A policy is text of its own, which may be empty.
func (c *Change) text(text string) error {
	if len(text) > MaxChange || !utf8.ValidString(text) {
		return fmt.Errorf("%s %s is longer than %d bytes or not UTF-8", c.Kind, c.Name, MaxChange)
	}
	if c.Kind == kindPolicy {
		return nil
	}
	if again, err := jcs.Transform([]byte(text)); err != nil || string(again) != text {
		return fmt.Errorf("%s %s is not canonical JSON", c.Kind, c.Name)
	}
	return nil
}
