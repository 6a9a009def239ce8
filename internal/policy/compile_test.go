package policy

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestCompileRefuses(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"no id", `permit (principal, action, resource);`, `x.cedar:1:1: every policy needs an @id("…")`},
		{"bad id", `@id("A b") permit (principal, action, resource);`, `x.cedar:1:1: @id "A b": an id is lower-case`},
		{"long id", `@id("` + strings.Repeat("a", 65) + `") permit (principal, action, resource);`, "an id is lower-case"},
		{"baseline id", `@id("baseline-mine") permit (principal, action, resource);`, "baseline-mine: ids that begin with baseline- are the baseline's"},
		{"double id", "@id(\"a\") permit (principal, action, resource);\n@id(\"a\") permit (principal, action, resource);", "x.cedar:2:1: a: this id stands already at x.cedar:1"},
		{"double annotation", `@id("a") @id("b") permit (principal, action, resource);`, "duplicate annotation: @id"},
		{"unknown annotation", `@id("a") @aproval("b") forbid (principal, action, resource);`, "unknown annotation @aproval; known are @id, @approval and @reason"},
		{"approval on permit", `@id("a") @approval("b") permit (principal, action, resource);`, "@approval belongs on a forbid"},
		{"approval names nothing", `@id("a") @approval("") forbid (principal, action, resource);`, "names no approval rule"},
		{"reason with a newline", `@id("a") @reason("b\nc") forbid (principal, action, resource);`, "@reason is one printable line"},
		{"unknown principal type", "@id(\"a\")\npermit (principal is Robot, action, resource);", "x.cedar:2:22: a: unrecognized entity type `Robot`"},
		{"unknown action", "@id(\"a\")\npermit (principal, action == Action::\"steal\", resource);", "x.cedar:2:30: a: unrecognized action `Action::\"steal\"`"},
		{"unknown attribute", "@id(\"a\")\npermit (principal, action == Action::\"use\", resource)\nwhen { resource.colour == \"red\" };", "x.cedar:3:17: a: attribute `colour` on entity type `Connection` not found"},
		{"unknown context", `@id("a") permit (principal, action == Action::"use", resource) when { context.mood == "good" };`, "attribute `mood` in context for Action::\"use\" not found"},
		{"impossible scope", `@id("a") permit (principal is Person, action == Action::"use", resource);`, "unable to find an applicable action"},
		{"not boolean", `@id("a") permit (principal, action == Action::"use", resource) when { context.attempt };`, "expected Bool"},
		{"fact compared as a whole number", `@id("a") permit (principal, action == Action::"use", resource) when { context.action.facts.amount < 5 };`, "facts that are numbers are decimals"},
		{"fact of two types", `@id("a") permit (principal, action == Action::"use", resource) when { context.action.facts.x == "a" && context.action.facts.x.lessThan(decimal("1.0")) };`, "expected"},
		{"fact unguarded beside its test", `@id("a") permit (principal, action == Action::"use", resource) when { context.action.facts has x || context.action.facts.x == "a" };`, "unable to guarantee safety"},
		{"template", `@id("a") permit (principal == ?principal, action, resource);`, "templates are not supported"},
		{"syntax", "@id(\"a\")\npermit (principal, actiom, resource);", "x.cedar:2:26: unexpected"},
		{"unfinished", `@id("a") permit (principal, action, resource)`, "x.cedar:1:"},
		{"right-to-left override", "@id(\"a\") // \u202e harmless\npermit (principal, action, resource);", "x.cedar:1:13: an invisible or unprintable character"},
		{"zero width in a string", "@id(\"a\") permit (principal in Group::\"ad\u200bmins\", action, resource);", "an invisible or unprintable character"},
		{"escape", "@id(\"a\")\x1b permit (principal, action, resource);", "an invisible or unprintable character"},
		{"brackets", `@id("a") permit (principal, action, resource) when { ` + strings.Repeat("(", 50) + "true" + strings.Repeat(")", 50) + " };", "nested too deeply"},
		{"ifs", `@id("a") permit (principal, action, resource) when { ` + strings.Repeat("if true then true else ", 50) + "true };", "nested too deeply"},
		{"ifs beside strings", `@id("a") permit (principal, action, resource) when { ` + strings.Repeat(`if"x"like"x"then true else `, 50) + "true };", "nested too deeply"},
		{"unaries", `@id("a") permit (principal, action, resource) when { !!!!!true };`, "more than four ! or - in a row"},
		{"long policy", `@id("a") permit (principal, action, resource) when { true` + strings.Repeat(" && true", 2000) + " };", "a policy longer than"},
		{"long file", strings.Repeat(" ", maxSourceBytes+1), "a file longer than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Compile([]Source{{Name: "x.cedar", Text: tt.text}})
			var problems Problems
			if !errors.As(err, &problems) {
				t.Fatalf("got %v, want problems", err)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %s\nwant %s", err, tt.want)
			}
		})
	}
}

func TestCompileAccepts(t *testing.T) {
	tests := []struct{ name, text string }{
		{"nothing", ""},
		{"a comment with ; and \"", "// a ; \" b\n" + `@id("a") permit (principal, action, resource); // c ;`},
		{"semicolon in a string", `@id("a") permit (principal, action == Action::"use", resource == Connection::"a;b\";c");`},
		{"fact as decimal", `@id("a") permit (principal, action == Action::"use", resource) when { decimal("1.0").lessThan(context.action.facts.amount) };`},
		{"fact as string", `@id("a") permit (principal, action == Action::"use", resource) when { context.action.facts.name like "a*" };`},
		{"fact in a set", `@id("a") permit (principal, action == Action::"use", resource) when { ["EUR", "CHF"].contains(context.action.facts.currency) };`},
		{"fact as boolean", `@id("a") permit (principal, action == Action::"use", resource) when { context.action.facts.urgent };`},
		{"two facts compared", `@id("a") permit (principal, action == Action::"use", resource) when { context.action.facts.a == context.action.facts.b };`},
		{"fact tested first", `@id("a") permit (principal, action == Action::"use", resource) when { context.action.facts has x } when { context.action.facts.x == "a" };`},
		{"claimed", `@id("a") forbid (principal, action == Action::"use", resource) when { context.claimed has label && context.claimed.label == "x" };`},
		{"not ASCII", `@id("a") @reason("für Löhne — 工資") permit (principal in Process::"löhne", action == Action::"use", resource);`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Compile([]Source{{Name: "x.cedar", Text: tt.text}}); err != nil {
				t.Error(err)
			}
		})
	}
}

// A compile is what an apply costs; no text within the bounds may make it slow.
func TestCompileBombs(t *testing.T) {
	scope := `@id("a") forbid (principal, action, resource) when { `
	for name, text := range map[string]string{
		"conjunction":  scope + "true" + strings.Repeat(" && true", 900) + " };",
		"facts":        scope + strings.Repeat("context.claimed.a.", 1) + "b == context.claimed.c && context.claimed.d == context.claimed.e && " + strings.Repeat("context.claimed.f == context.claimed.g && ", 90) + "true };",
		"attributes":   scope + "context" + strings.Repeat(".a", 3000) + " };",
		"sets":         scope + strings.Repeat("[", 20) + strings.Repeat("]", 20) + `.contains(1) };`,
		"ifs":          scope + strings.Repeat("if (", 11) + "true" + strings.Repeat(") then context.a else context.b", 11) + " };",
		"equalities":   scope + "1" + strings.Repeat(" == (1", 20) + strings.Repeat(")", 20) + " };",
		"disjunctions": scope + strings.Repeat("(context.a || ", 22) + "true" + strings.Repeat(")", 22) + " };",
		"getTag":       scope + strings.Repeat(`principal.getTag(`, 20) + `"a"` + strings.Repeat(")", 20) + " };",
		"records":      scope + strings.Repeat(`{a: `, 20) + `1` + strings.Repeat("}.a", 20) + " == 1 };",
	} {
		t.Run(name, func(t *testing.T) {
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = Compile([]Source{{Name: "x.cedar", Text: text}})
			}()
			select {
			case <-done:
			case <-time.After(20 * time.Second):
				t.Fatal("still compiling")
			}
		})
	}
}

func TestTextAndDigest(t *testing.T) {
	s := compile(t, "// before\n"+payroll+"// after ;\n")
	text, digest, ok := s.Text("payroll-reads-hr")
	want := `@id("payroll-reads-hr")
permit (principal in Workflow::"payroll/pay-run", action == Action::"use", resource == Connection::"hr");`
	if !ok || text != want {
		t.Errorf("got %q", text)
	}
	if len(digest) != len("sha256:")+64 {
		t.Errorf("digest %q", digest)
	}
	if _, _, ok := s.Text("nobody"); ok {
		t.Error("text of a policy that does not exist")
	}
	if rule, ok := s.Rule("large-batches-need-treasury"); !ok || rule != "two-from-treasury" {
		t.Errorf("rule %q %v", rule, ok)
	}
	if _, ok := s.Rule("baseline-agents-never-approve"); ok {
		t.Error("a forbid without @approval has a rule")
	}
}

// Run it with -fuzzminimizetime=1x: with the default nearly all time goes into making inputs smaller.
func FuzzCompile(f *testing.F) {
	f.Add(payroll)
	base, err := Baseline()
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range base {
		f.Add(strings.ReplaceAll(b.Text, baselinePrefix, ""))
	}
	f.Add(`@id("a") permit (principal, action == Action::"use", resource) when { if context.action.facts has "x y" then true else -1 == 2 };`)
	f.Add("@id(\"a\") // \"\n forbid(principal,action,resource)unless{[1,{a:ip(\"::1\")}].isEmpty()};")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Compile([]Source{{Name: "f", Text: text}})
		if err != nil {
			return
		}
		for _, id := range s.IDs() {
			if strings.HasPrefix(id, baselinePrefix) {
				continue
			}
			text, _, ok := s.Text(id)
			if !ok || !strings.Contains(text, id) || !strings.HasSuffix(text, ";") {
				t.Errorf("%s: text %q", id, text)
			}
		}
		v := s.Decide(useRequest(readTask, "hr"))
		if v.Outcome == Allow && (len(v.Errors) > 0 || len(v.Policies) == 0) {
			t.Errorf("allowed with %v by %v", v.Errors, v.Policies)
		}
	})
}
